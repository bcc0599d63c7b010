"""The stop on the station itself: when the bus is left to the controller, and what its samples prove."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from modbus_rig import BATTERY, METER, Rig

from stationkeeper.modbus.stop import Endpoint, SiteState, StopOptions, Target
from stationkeeper.station.status import Metrics
from stationkeeper.stopping.local import Own, left_to_controller, stop_here, watch_controller

OPTIONS = StopOptions(window_s=2, hold_s=0.05, interval_s=0.02, connect_timeout_s=0.5, response_timeout_s=0.5)
SINGLE = BATTERY.model_copy(update={"max_connections": 1})


def own(port: int = 1, *, single: bool = True, meter: bool = True) -> Own:
    device = Endpoint("127.0.0.1", port, 1, SINGLE if single else BATTERY)
    measured_by = Endpoint("127.0.0.1", port, 2, METER) if meter else None
    return Own(Target("a", "bess", device, measured_by, 100), "meter" if meter else None)


def controller(
    *, power_kw: float = 0.1, meter_kw: float = 0.1, latched: int = 1, fresh: bool = True
) -> Callable[[], Metrics]:
    """The metrics of a controller that takes a sample at each look, or never again."""
    samples = itertools.count(1)

    def fetch() -> Metrics:
        at = next(samples) if fresh else 1
        lines = [
            f"stationkeeper_emergency_stop_latched {latched}",
            "stationkeeper_poll_interval_seconds 0.02",
        ]
        lines.append('stationkeeper_device_setpoint_kw{device="bess"} 0')
        for name, power in (("bess", power_kw), ("meter", meter_kw)):
            lines.append(f'stationkeeper_device_power_kw{{device="{name}"}} {power}')
            lines.append(f'stationkeeper_last_sample_timestamp_seconds{{device="{name}"}} {at}')
        return Metrics("\n".join(lines))

    return fetch


@pytest.mark.parametrize(
    ("metrics", "state", "words"),
    [
        (controller(), SiteState.VERIFIED_ZERO, "by the samples of its latched controller"),
        (controller(power_kw=30), SiteState.FAILED, "still measures 30"),
        (controller(meter_kw=-30), SiteState.FAILED, "still measures"),
        (controller(latched=0), SiteState.UNKNOWN, "does not say that it is latched"),
        (controller(fresh=False), SiteState.UNREACHABLE_DEADMAN_PENDING, "goes to 0 kW by itself"),
        (lambda: None, SiteState.UNREACHABLE_DEADMAN_PENDING, "goes to 0 kW by itself"),
    ],
)
def test_what_the_controller_s_samples_prove(
    metrics: Callable[[], Metrics | None], state: SiteState, words: str
) -> None:
    result = asyncio.run(watch_controller(own(), OPTIONS, metrics))
    assert result.state is state, result
    assert words in result.message
    assert (result.verified_at is not None) == (state is SiteState.VERIFIED_ZERO)


def test_a_single_session_is_left_to_a_living_controller_only(tmp_path: Path) -> None:
    assert left_to_controller(own().target)
    assert not left_to_controller(own(single=False).target)
    rig = Rig(tmp_path / "served.jsonl")
    try:
        port = rig.station()
        (left,) = asyncio.run(stop_here([own(port)], OPTIONS, controller()))
        assert left.state is SiteState.VERIFIED_ZERO
        assert rig.served == [], "the controller's only session was disturbed"
        dead, spare = asyncio.run(
            stop_here([own(port), own(rig.station(), single=False)], OPTIONS, lambda: None)
        )
        assert {dead.state, spare.state} == {SiteState.VERIFIED_ZERO}
        assert [entry["recipe"] for entry in dead.writes] == ["zero_power"]
        (both,) = asyncio.run(stop_here([own(rig.station(), single=False)], OPTIONS, controller()))
        assert both.writes, "a device with a session to spare is written to, controller or not"
    finally:
        rig.close()
