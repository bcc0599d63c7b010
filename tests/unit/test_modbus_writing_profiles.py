"""Recipes of every built-in battery profile, as the module runs them, against its simulation."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from modbus_writing_bench import Bench, run
from test_modbus_writing_records import Sink

from stationkeeper.modbus.options import MODBUS_WRITE
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.modbus.writing.group import GroupResult
from stationkeeper.modbus.writing.job import carry_out
from stationkeeper.modbus.writing.module import write_job
from stationkeeper.profiles.load import DATA

BATTERIES = sorted(
    path.stem for path in DATA.glob("*.yaml") if yaml.safe_load(path.read_text())["device_type"] == "bess"
)
PACE = {
    "window_s": 30,
    "interval_s": 0.5,
    "samples": 2,
    "hold_s": 2,
    "other_master_cycle_s": 1,
    **dict.fromkeys(("mode", "point", "address", "reference", "value", "tolerance")),
}


async def write(
    bench: Bench, directory: Path, recipe: str, *, dry_run: bool = False, **given: Any
) -> GroupResult:
    parameters = {name: spec.get("default") for name, spec in MODBUS_WRITE.items()} | {
        "host": "127.0.0.1",
        "port": bench.port,
        "response_timeout_s": 10,
        "connect_timeout_s": 10,
        "profile": bench.profile.name,
        "profile_path": [str(directory)],
        "recipe": recipe,
        "verify": PACE,
    }
    job = write_job(parameters | given, None, dry_run=dry_run)
    clock: Any = bench.clock
    return await carry_out(job, clock=clock, sink=Sink(), directory=directory / "state")


@pytest.mark.criterion("MW-1", "MW-3", "MW-5")
@pytest.mark.parametrize("name", BATTERIES)
def test_recipes_of_every_profile(name: str, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        power_kw = -0.6 * bench.profile.rating_kw
        planned = await write(bench, tmp_path, "set_power", power_kw=power_kw, dry_run=True)
        assert (planned.outcome, planned.failed, bench.server.writes()) == (None, False, 0), planned.message
        done = await write(bench, tmp_path, "set_power", power_kw=power_kw)
        assert (done.outcome, done.changed) == (Outcome.VERIFIED, True), done.message
        device = bench.clock.station.devices[1]  # type: ignore[union-attr]
        await bench.clock.sleep(5)
        assert device.source.values()["power_kw"] == pytest.approx(power_kw, abs=1), "the battery does it"
        again = await write(bench, tmp_path, "set_power", power_kw=power_kw)
        assert (again.outcome, again.changed) == (Outcome.UNCHANGED, False)
        for recipe in ("zero_power", "stop"):
            ended = await write(bench, tmp_path, recipe)
            assert ended.outcome in (Outcome.VERIFIED, Outcome.UNCHANGED), (recipe, ended.message)
        await bench.clock.sleep(5)
        assert device.source.values()["power_kw"] == pytest.approx(0, abs=1)
        for entry in bench.writes:
            assert entry["function"] in (6, 16)

    run(tmp_path, scenario, builtin=name)


def test_mbpoll_sees_what_a_recipe_has_written(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        done = await write(bench, tmp_path, "set_power", power_kw=7.5)
        assert done.outcome is Outcome.VERIFIED, done.message
        command = ["mbpoll", "-m", "tcp", "-p", str(bench.port), "-a", "1", "-0", "-1", "-q"]
        command += ["-r", "1200", "-t", "4", "127.0.0.1"]
        seen = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
        # + when charging, in steps of 0.1 kW
        assert seen.stdout.split()[-1].strip("()") == "-75"

    run(tmp_path, scenario, builtin="hold_last_inverter")


@pytest.mark.parametrize("transport", ["rtu_over_tcp", "serial"])
def test_a_write_over_rtu_frames(transport: str, tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        if transport == "serial":
            # A pseudo-terminal takes no parity.
            line = {"baudrate": 19200, "parity": "N", "stopbits": 1, "local_echo": False}
            given: dict[str, Any] = {"host": await bench.server.start_serial(), "serial": line}
        else:
            given = {"port": await bench.server.start("127.0.0.1", 0, rtu=True)}
        done = await write(bench, tmp_path, "set_power", power_kw=7.5, transport=transport, **given)
        assert done.outcome is Outcome.VERIFIED, done.message
        assert await bench.client.read(1, "holding", 0, 2) == [0, 7500]

    run(tmp_path, scenario, builtin="generic_battery")
