"""The runbook telemetry_tune, run by Ansible on a real PostgreSQL; systemd is a script that keeps files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from archive_database import create_archive_tables
from local_project import LocalProject
from postgres_cluster import PostgresCluster
from telemetry_database import ROOT

# What Ansible's module and the runbook ask systemctl, answered from the unit files.
_SYSTEMCTL = """#!/usr/bin/env python3
import pathlib, re, sys
units = pathlib.Path({units!r})
words = [word for word in sys.argv[1:] if not word.startswith("-")]
wanted = [word.split("=")[1].split(",") for word in sys.argv if word.startswith("--property=")]
with (units / "log").open("a") as log:
    print(" ".join(sys.argv[1:]), file=log)
for name in words[1:]:
    text = (units / name).read_text()
    if words[0] == "cat":
        print(text)
    if words[0] == "is-enabled":
        print("enabled")
    if words[0] == "show":
        command, calendar = re.search("ExecStart=(.*)", text), re.search("OnCalendar=(.*)", text)
        told = {{"Id": name, "LoadState": "loaded", "Result": "success", "ActiveState": "inactive"}}
        if calendar:
            told |= {{"ActiveState": "active", "UnitFileState": "enabled", "NextElapseUSecRealtime": "soon"}}
            told["TimersCalendar"] = "{{ OnCalendar=" + calendar[1] + " ; next_elapse=soon }}"
        else:
            told["ExecMainStatus"] = "0"
            told["ExecStart"] = "{{ argv[]=" + command[1].replace('"', "") + " }}"
        for key, value in told.items():
            if not wanted or key in sum(wanted, []):
                print(key + "=" + value)
"""


def declared(minutes: int, look_back: str) -> dict[str, Any]:
    """Return the inventory's own variables, with another interval and look-back."""
    file = ROOT / "inventories/flux/group_vars/databases/main.yml"
    variables = yaml.safe_load(file.read_text())
    rollup = variables["telemetry_rollup"] | {"interval_minutes": minutes, "look_back": look_back}
    return {"telemetry_rollup": rollup, "timescaledb_jobs": variables["timescaledb_jobs"]}


def make_project(path: Path, cluster: PostgresCluster, settings: dict[str, Any]) -> LocalProject:
    variables = {
        "stationkeeper_state": str(path / "state"),
        "stationkeeper_inventory": "inventories/flux",
        "stationkeeper_database": {key: settings[key] for key in ("hosts", "port", "name")},
        "timescaledb_port": settings["port"],
        **declared(5, "6 hours"),
    }
    project = LocalProject(path, variables, {"databases": {"fluxdb": {}}})
    project.replace(
        "telemetry_tune",
        "            owner: flux_owner\n",
        f"            owner: flux_owner\n            hosts: [{cluster.directory}]\n",
    )
    # The role writes its units elsewhere, as nobody in particular.
    (path / "roles").unlink()
    shutil.copytree(ROOT / "roles", path / "roles")
    jobs = path / "roles/timescaledb/tasks/jobs.yml"
    text = jobs.read_text().replace("/etc/systemd/system", str(path / "units"))
    text = text.replace("/usr/lib/python3/dist-packages/psycopg2", "/")
    jobs.write_text(text.replace("    owner: root\n    group: root\n", ""))
    (path / "units").mkdir()
    (path / "bin").mkdir()
    program = path / "bin/systemctl"
    program.write_text(_SYSTEMCTL.format(units=str(path / "units")))
    program.chmod(0o755)
    project.environment["PATH"] = f"{path / 'bin'}:{os.environ['PATH']}"
    return project


def units(path: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in (path / "units").glob("*.*")}


@pytest.mark.criterion("GR-9")
def test_the_rollup_is_tuned_as_the_inventory_says(
    postgres_cluster: PostgresCluster, postgres_settings: dict[str, Any], tmp_path: Path
) -> None:
    create_archive_tables(postgres_settings, timescale=True).close()
    project = make_project(tmp_path, postgres_cluster, postgres_settings)
    (tmp_path / "units/flux-rollup.timer").write_text("OnCalendar=*-*-* *:00/5:20 UTC\n")
    (tmp_path / "units/flux-rollup.service").write_text(
        'ExecStart=/usr/bin/psql "--command='
        "SELECT flux.refresh_meter_readings_5m(now() - interval '6 hours', now())\"\n"
    )
    # Something else than the inventory says is refused, with what to write there.
    before = units(tmp_path)
    assert project.run("telemetry_tune", "--check", target="all", interval_minutes=10) != 0
    assert "The next site.yml would undo it. Write `interval_minutes: 10` under" in project.output
    assert "inventories/flux/group_vars/databases/main.yml" in project.output

    inventory = yaml.safe_load((tmp_path / "hosts.yml").read_text())
    inventory["all"]["vars"] |= declared(10, "12 hours")
    (tmp_path / "hosts.yml").write_text(json.dumps(inventory))
    assert project.run("telemetry_tune", "--check", "--diff", target="all") == 0, project.output[-3000:]
    assert "would be changed to every 10 minutes, 12 hours back, by timer" in project.output
    assert "+OnCalendar=*-*-* *:00/10:20 UTC" in project.output
    assert units(tmp_path) == before

    said = {"target": "all", "reason": "test", "interval_minutes": 10, "look_back": "12 hours"}
    assert project.run("telemetry_tune", **said) == 0, project.output[-3000:]
    assert "changed to every 10 minutes, 12 hours back, by timer; a refresh with it ran" in project.output
    assert "OnCalendar=*-*-* *:00/10:20 UTC" in units(tmp_path)["flux-rollup.timer"]
    assert "interval '12 hours'" in units(tmp_path)["flux-rollup.service"]
    # The other jobs are not touched, and the old values are on record.
    assert sorted(units(tmp_path)) == ["flux-rollup.service", "flux-rollup.timer"]
    log = (tmp_path / "units/log").read_text().splitlines()
    assert "start flux-rollup.service" in log
