"""Every built-in profile against its golden vectors: registers to values, and commands to registers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from golden import GoldenClient, Vector, vectors
from stationkeeper.controller.clock import Clock
from stationkeeper.controller.device import Device
from stationkeeper.controller.metrics import Metrics
from stationkeeper.controller.schema import Battery, Meter
from stationkeeper.profiles import decode_sample, load_profile, read_points, read_sample, run_recipe
from stationkeeper.profiles.load import DATA
from stationkeeper.simulator.device import SimulatedDevice
from stationkeeper.simulator.faults import Fault

ALL = vectors()


def test_every_profile_has_vectors_and_every_recipe_of_it_is_in_one() -> None:
    for path in DATA.glob("*.yaml"):
        profile = load_profile(path.stem)
        mine = vectors(profile.name)
        assert mine, f"{profile.name} has no golden vectors"
        assert {write.recipe for vector in mine for write in vector.writes} == set(profile.recipes)


@pytest.mark.parametrize("vector", ALL, ids=str)
def test_a_sample_and_single_points_mean_what_the_vector_says(vector: Vector) -> None:
    profile = load_profile(vector.profile)
    client: Any = GoldenClient(vector)
    assert asyncio.run(read_sample(client, 1, profile)) == vector.sample
    # One by one they say the same, scale factors included.
    every = {**vector.sample, **vector.points}
    assert asyncio.run(read_points(client, 1, profile, every)) == every


@pytest.mark.parametrize("vector", [vector for vector in ALL if vector.writes], ids=str)
def test_recipes_send_the_words_of_the_vector(vector: Vector) -> None:
    profile = load_profile(vector.profile)
    for write in vector.writes:
        client: Any = GoldenClient(vector)
        written = asyncio.run(run_recipe(client, 1, profile, write.recipe, power_kw=write.power_kw))
        assert [(step.point, step.address, step.words) for step in written] == write.requests
        assert client.writes == [(address, words) for _, address, words in write.requests]


@pytest.mark.parametrize("vector", ALL, ids=str)
def test_the_controller_stores_what_the_vector_says(vector: Vector) -> None:
    profile = load_profile(vector.profile)
    common = {"id": uuid.uuid4(), "name": "D", "profile": profile.name, "modbus": {"host": "h", "unit": 1}}
    battery = {"rating_kw": profile.rating_kw, "capacity_kwh": 200}
    config = Battery(**common, **battery) if profile.device_type == "bess" else Meter(**common)
    client: Any = GoldenClient(vector)
    device = Device(config, profile, client, Metrics("WLCE"), boot_id="boot", clock=Clock())
    sample = asyncio.run(device.sample())
    assert sample is not None
    assert sample.payload == vector.sample


class Physics:
    """The vector's values in the place of a battery's or a meter's physics."""

    def __init__(self, vector: Vector) -> None:
        self._values = {name: value or 0.0 for name, value in vector.sample.items()} | {"rated_power_kw": 1.0}
        self._values.pop("heartbeat")

    def values(self) -> Mapping[str, float]:
        return self._values

    def check(self, name: str, value: float) -> None: ...

    def write(self, name: str, value: float) -> None: ...

    def heard(self, what: Literal["message", "write", "feed"]) -> None: ...

    def reboot(self) -> None: ...


# Its physics know two alarms, and where SunSpec models lie is the simulator's own choice.
SIMULATED = [
    vector for vector in ALL if "sunspec" not in vector.profile and (vector.sample.get("alarms") or 0) <= 3
]


@pytest.mark.parametrize("vector", SIMULATED, ids=str)
def test_the_simulator_serves_the_registers_of_the_vector(vector: Vector) -> None:
    profile = load_profile(vector.profile)
    # Counted up by the read, as a device counts its answers.
    beat = int(vector.sample[profile.heartbeat] or 0) - 1
    device = SimulatedDevice("D", profile, Physics(vector), heartbeat=beat)
    missing = [Fault(kind="sentinel", point=name) for name, value in vector.sample.items() if value is None]
    device.states = lambda: missing
    block = profile.telemetry
    served = device.read(block.table, block.address, block.count)
    assert decode_sample(served, profile) == vector.sample
    if not missing:
        # There are several words for "not a number", and one sentinel is as good as another.
        assert served == vector.words(block.table, block.address, block.count)
