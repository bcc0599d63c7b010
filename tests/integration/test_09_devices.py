"""A battery and its meter join a station and leave it again, on real hosts, seen by mbpoll and SQL."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from system import LabSystem

STATION = "hmce"
# Names are never used twice, so each run on a lab that stays has its own.
NAMES = [f"HMCE-BESS-{int(time.time())}", f"HMCE-METER-{int(time.time())}"]
SERVED = "/var/log/device_simulator/served.jsonl"
WRITES = {5, 6, 15, 16, 22, 23}
CONFIG = "/etc/bess_controller/config.yaml"


@pytest.fixture(scope="module")
def declaration(flux: LabSystem) -> Iterator[Path]:
    """The station's file of the inventory; restored at the end."""
    path = flux.inventory / "host_vars" / f"{STATION}.yml"
    before = path.read_text()
    yield path
    path.write_text(before)


def declare(path: Path, **battery: Any) -> None:
    """Declare the second battery (unit 11) and its meter (unit 12) after what is there."""
    variables = yaml.safe_load(path.read_text())
    devices = [device for device in variables["station_devices"] if device["name"] not in NAMES]
    first, meter = devices[:2]
    devices += [
        {**first, "name": NAMES[0], "modbus": {**first["modbus"], "unit": 11}, **battery},
        {**meter, "name": NAMES[1], "modbus": {**meter["modbus"], "unit": 12}, "measures": NAMES[0]},
    ]
    path.write_text(yaml.safe_dump({**variables, "station_devices": devices}, sort_keys=False))


def withdraw(path: Path) -> None:
    variables = yaml.safe_load(path.read_text())
    variables["station_devices"] = [d for d in variables["station_devices"] if d["name"] not in NAMES]
    path.write_text(yaml.safe_dump(variables, sort_keys=False))


def registry(flux: LabSystem) -> dict[str, Any]:
    rows = flux.query(
        "SELECT name, active_to::text, metadata->>'writes_enabled' FROM flux.mg_device_registry"
        " WHERE name = ANY (%s)",
        (NAMES,),
    )
    return {name: (end, writes) for name, end, writes in rows}


def writes(flux: LabSystem, unit: int) -> int:
    log = flux.on_host(STATION, "cat", SERVED).stdout
    return sum(e["unit"] == unit and e["function"] in WRITES for e in map(json.loads, log.splitlines()))


def stop_bundle(flux: LabSystem) -> str:
    """What `stationkeeper stop` knows of the system without Ansible."""
    return next((flux.state / "stop_bundle").glob("*.json")).read_text()


def run(flux: LabSystem, runbook: str, *options: str, **inputs: Any) -> Any:
    return flux.playbook(runbook, {"target": STATION, "reason": "ring 4", **inputs}, *options)


@pytest.mark.criterion("DV-2")
def test_a_taken_address_is_refused(flux: LabSystem, declaration: Path) -> None:
    declare(declaration, writes_enabled=False, modbus={"host": "{{ ansible_host }}", "port": 502, "unit": 1})
    play = run(flux, "device_add")
    assert play.code != 0
    assert "same unit and address" in play.output
    assert play.changed == {}
    withdraw(declaration)


@pytest.mark.criterion("DV-1", "DV-3")
def test_a_battery_joins_read_only(flux: LabSystem, declaration: Path) -> None:
    declare(declaration, writes_enabled=False)
    before = flux.on_host(STATION, "cat", CONFIG).stdout
    preview = run(flux, "device_add", "--check")
    assert preview.code == 0, preview.output[-5000:]
    assert f"would be {NAMES[0]}" in " ".join(preview.output.split())
    assert (flux.on_host(STATION, "cat", CONFIG).stdout, registry(flux)) == (before, {})
    assert NAMES[0] not in stop_bundle(flux)
    play = run(flux, "device_add")
    assert play.code == 0, play.output[-5000:]
    assert registry(flux) == {NAMES[0]: (None, "false"), NAMES[1]: (None, None)}
    assert writes(flux, 11) == 0, "a battery in commissioning was written to"
    assert NAMES[0] in stop_bundle(flux)
    again = run(flux, "device_add")
    assert again.code == 0, again.output[-5000:]
    assert again.changed == {}


@pytest.mark.criterion("DV-1")
def test_site_finds_nothing_to_change(flux: LabSystem, declaration: Path) -> None:
    # The station, and where its devices are known besides.
    play = flux.playbook("site", None, "--limit", f"localhost,{STATION},fluxdb,fluxhub")
    assert play.code == 0, play.output[-5000:]
    assert play.changed == {}


@pytest.mark.criterion("DV-3")
def test_writes_are_enabled_by_a_run_of_its_own_after_a_commissioning(
    flux: LabSystem, declaration: Path
) -> None:
    declare(declaration)
    refused = run(flux, "device_add")
    assert refused.code != 0
    assert "enable_writes=true" in refused.output
    refused = run(flux, "device_add", enable_writes=True)
    assert refused.code != 0
    assert "no report of a device_commission that passed" in " ".join(refused.output.split())
    assert writes(flux, 11) == 0

    declare(declaration, writes_enabled=False)
    play = run(flux, "device_commission", device=NAMES[0])
    assert play.code == 0, play.output[-5000:]
    assert "passed, left at 0 kW" in " ".join(play.output.split())
    assert writes(flux, 11) > 0
    assert flux.mbpoll(STATION, 11, "holding", 0, 2) == [0, 0]
    assert abs(flux.power_kw(STATION, 11)) <= 1

    declare(declaration)
    play = run(flux, "device_add", enable_writes=True)
    assert play.code == 0, play.output[-5000:]
    assert registry(flux)[NAMES[0]] == (None, None)
    flux.wait("a set-point", lambda: flux.mbpoll(STATION, 11, "holding", 0, 2) != [0, 0], timeout_s=60)


@pytest.mark.criterion("DV-5")
def test_it_leaves_at_a_proven_zero_and_its_rows_stay(flux: LabSystem, declaration: Path) -> None:
    withdraw(declaration)
    inputs = {"devices": NAMES, "archive": True}
    preview = run(flux, "device_remove", "--check", **inputs)
    assert preview.code == 0, preview.output[-5000:]
    assert registry(flux)[NAMES[0]][0] is None
    play = run(flux, "device_remove", confirm=STATION, **inputs)
    assert play.code == 0, play.output[-5000:]
    assert "VERIFIED_ZERO" in play.output
    assert NAMES[0] not in flux.on_host(STATION, "cat", CONFIG).stdout
    assert NAMES[0] not in stop_bundle(flux)
    assert sorted(path.name.split("_")[0] for path in (flux.state / "archive").rglob("*.csv")) == sorted(
        NAMES
    )
    assert all(end for end, _ in registry(flux).values())
    kept = flux.query(
        "SELECT count(*) FROM flux.mg_bess_readings WHERE device_id ="
        " (SELECT id FROM flux.mg_device_registry WHERE name = %s)",
        (NAMES[0],),
    )
    assert kept[0][0] > 0
    again = run(flux, "device_remove", confirm=STATION, **inputs)
    assert again.code == 0, again.output[-5000:]
    assert again.changed == {}


@pytest.mark.criterion("DV-5")
def test_its_name_is_never_used_again(flux: LabSystem, declaration: Path) -> None:
    declare(declaration, writes_enabled=False)
    play = run(flux, "device_add")
    assert play.code != 0
    assert "never used again" in play.output
    withdraw(declaration)
