"""What device_add and device_remove refuse and undo, with a real controller, real Modbus, a real database.

That they do their work is shown on real hosts: tests/integration/test_09_devices.py.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from controller_process import wait_until
from device_project import WRITES, Project
from postgres_cluster import PostgresCluster

from stationkeeper.registry import rows as registry


@pytest.fixture
def project(tmp_path: Path, private_postgres: PostgresCluster) -> Iterator[Project]:
    made = Project(tmp_path, private_postgres)
    try:
        made.station.configure(poll_interval="1s")
        base = (made.battery(1), made.meter(1))
        wanted = registry.from_station("flux", "wlce", "WLCE", base)
        registry.write(made.database, registry.plan([], wanted))
        made.database.commit()
        made.configure(*base)
        made.station.start_controller()
        made.declare(*base)
        wait_until(made.station.commanded_kw, "a controller that is in charge")
        yield made
    finally:
        made.end()


def mbpoll(project: Project, unit: int, address: int, count: int) -> list[int]:
    """Read holding registers by a client that shares no code with this repository."""
    program = shutil.which("mbpoll")
    assert program, "install mbpoll"
    port = str(project.station.port)
    command = [program, "-m", "tcp", "-p", port, "-a", str(unit), "-t", "4", "-0", "-r", str(address)]
    done = subprocess.run(
        [*command, "-c", str(count), "-1", "127.0.0.1"], capture_output=True, text=True, check=True
    )
    return [int(value) for value in re.findall(r"^\[\d+\]:\s+(-?\d+)", done.stdout, re.MULTILINE)]


def writers(project: Project) -> set[str]:
    """Return who has written to the devices."""
    return {entry["client"] for entry in project.station.served_entries() if entry.get("function") in WRITES}


def declare_second(project: Project, **battery: Any) -> None:
    project.declare(project.battery(1), project.meter(1), project.battery(2, **battery), project.meter(2))


def serve_second(project: Project) -> None:
    """Have the second battery in service, as device_add leaves it."""
    devices = (project.battery(1), project.meter(1), project.battery(2), project.meter(2))
    wanted = registry.from_station("flux", "wlce", "WLCE", devices)
    registry.write(project.database, registry.plan(registry.read(project.database) or [], wanted))
    project.database.commit()
    project.declare(*devices)
    project.configure(*devices)
    project.station.reload()
    wait_until(lambda: mbpoll(project, 3, 0, 2) != [0, 0], "a set-point that mbpoll sees")


REMOVE = {"devices": ["B2", "M2"], "confirm": "wlce", "last_row_wait_s": 60}


@pytest.mark.criterion("DV-2")
def test_a_device_that_is_not_there_is_refused_and_nothing_stays(project: Project) -> None:
    before = project.traces()
    swapped = project.battery(2, writes_enabled=False)
    swapped["modbus"] = project.meter(2)["modbus"]
    project.declare(project.battery(1), project.meter(1), swapped)
    assert project.run("device_add") != 0
    assert "B2 does not answer" in project.output
    assert "undone, configuration and registry as before" in project.output
    assert project.traces() == before


def test_without_a_row_everything_is_undone(project: Project) -> None:
    before = project.traces()
    declare_second(project, writes_enabled=False)
    with project.database, project.database.cursor() as cursor:
        cursor.execute("REVOKE ALL ON flux.mg_bess_readings FROM postgres")
        cursor.execute(
            "CREATE FUNCTION flux.refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
        )
        for kind in ("bess", "meter"):
            cursor.execute(
                f"CREATE TRIGGER refuse BEFORE INSERT ON flux.mg_{kind}_readings"
                " FOR EACH ROW EXECUTE FUNCTION flux.refuse()"
            )
    assert project.run("device_add", first_row_wait_s=3) != 0
    assert "no row in the database since" in project.output
    assert "undone, configuration and registry as before" in project.output
    assert project.traces() == before
    assert project.writes(3) == 0


@pytest.mark.criterion("DV-5")
def test_a_battery_that_answers_is_not_called_disconnected(project: Project) -> None:
    serve_second(project)
    project.declare(project.battery(1), project.meter(1))
    before = project.traces()
    assert project.run("device_remove", **REMOVE, disconnected=True) != 0
    assert "is not disconnected, it answers" in project.output
    assert project.traces() == before
    assert mbpoll(project, 3, 0, 2) != [0, 0]
