"""The device runbooks on this machine: a real controller, simulated devices, a real database.

Only what needs a machine of its own is replaced: the roles that write files of the station and of Prometheus
do so in the directory of the test, and `edge_status`, which asks systemd, finds nothing wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from controller_process import Station
from database_logins import database_logins
from postgres_cluster import PASSWORD, PostgresCluster
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from telemetry_database import ROOT, create_tables

from stationkeeper.database.statements import split
from stationkeeper.station.declared import controller_devices

WRITES = {5, 6, 15, 16, 22, 23}
ROLES = {
    "edge_controller/tasks/configure.yml": """
- name: Configure the controller
  ansible.builtin.copy:
    content: "{{ test_config | combine({'devices': _devices}) | to_nice_yaml }}"
    dest: "{{ test_directory }}/etc/config.yaml"
    mode: "0600"
  vars: {_devices: "{{ station_devices | edge_controller_devices(stationkeeper_system, station_site) }}"}
  notify: Reload the controller
""",
    "edge_controller/tasks/started.yml": "- ansible.builtin.meta: flush_handlers\n",
    "edge_controller/handlers/main.yml": """
- name: Reload the controller
  ansible.builtin.command: {argv: [kill, -HUP, "{{ test_controller_pid }}"]}
""",
    "prometheus/tasks/configure.yml": """
- name: Write down which devices are expected
  ansible.builtin.copy:
    content: "{{ groups['stations'] | map('extract', hostvars, 'station_devices') | flatten | to_json }}"
    dest: "{{ test_directory }}/expected.json"
    mode: "0600"
""",
}
STATUS = """#!/usr/bin/python
from ansible.module_utils.basic import AnsibleModule

options = {"metrics_url": {}, "devices": {"type": "list"}, "sample_age_s": {}, "wait_s": {}}
AnsibleModule(argument_spec=options, supports_check_mode=True).exit_json(changed=False, problems=[])
"""


class Project:
    """A copy of the repository's runbooks with an inventory of one station, `wlce`."""

    def __init__(self, path: Path, cluster: PostgresCluster) -> None:
        self.path = path
        self.output = ""
        self.station = Station(path / "station")
        self._start_devices()
        self.settings = cluster.create_database()
        self.database = migrated(self.settings)
        self.station.use_database(self.settings)
        for name in ("action_plugins", "filter_plugins", "src"):
            (path / name).symlink_to(ROOT / name)
        shutil.copytree(ROOT / "library", path / "library")
        (path / "library/edge_status.py").write_text(STATUS)
        shutil.copytree(ROOT / "playbooks", path / "playbooks", symlinks=True)
        for name, text in ROLES.items():
            (path / "roles" / name).parent.mkdir(parents=True, exist_ok=True)
            (path / "roles" / name).write_text(text)
        (path / "roles/runbook").symlink_to(ROOT / "roles/runbook")
        shutil.copy(ROOT / "ansible.cfg", path)

    def _start_devices(self) -> None:
        """Two batteries with their meters, whatever the inventory says of them."""
        station = self.station
        devices = []
        for number, unit in ((1, 1), (2, 3)):
            battery = {"unit": unit, "name": f"B{number}", "profile": "generic_battery", "capacity_kwh": 200}
            devices.append(battery | {"initial_soe_percent": 80})
            devices.append(
                {"unit": unit + 1, "name": f"M{number}", "profile": "generic_meter", "meter_of": f"B{number}"}
            )
        listen = {"host": "127.0.0.1", "port": station.port}
        path = station.directory / "simulator.yaml"
        path.write_text(yaml.safe_dump({"listen": listen, "log": str(station.served), "devices": devices}))
        command = [sys.executable, "-m", "stationkeeper.cli", "simulator", "run", "--config", path]
        station.simulator = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert station.simulator.stdout is not None
        assert b"serving" in station.simulator.stdout.readline()

    def battery(self, number: int, **more: Any) -> dict[str, Any]:
        """Return the declaration of a battery; the units are 1 and 3."""
        modbus = {"host": "127.0.0.1", "port": self.station.port, "unit": 2 * number - 1}
        values = {"rating_kw": 100, "capacity_kwh": 200, "cadence_s": 1, "modbus": modbus}
        return {"name": f"B{number}", "type": "bess", "profile": "generic_battery", **values, **more}

    def meter(self, number: int) -> dict[str, Any]:
        """Return the declaration of the battery's meter."""
        modbus = {"host": "127.0.0.1", "port": self.station.port, "unit": 2 * number}
        values = {"measures": f"B{number}", "cadence_s": 1, "modbus": modbus}
        return {"name": f"M{number}", "type": "meter", "profile": "generic_meter", **values}

    def configure(self, *devices: dict[str, Any]) -> None:
        """Give the controller these devices, as site.yml has done before."""
        config = {**self.station.config, "devices": controller_devices(devices, "flux", "WLCE")}
        (self.station.etc / "config.yaml").write_text(yaml.safe_dump(config))

    def declare(self, *devices: dict[str, Any]) -> None:
        """Write the inventory."""
        config = {key: value for key, value in self.station.config.items() if key != "devices"}
        database = {key: self.settings[key] for key in ("hosts", "port", "name", "sslmode")}
        pid = self.station.controller.pid if self.station.controller else 0
        common = {
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "runbook_lock_directory": str(self.path / "locks"),
            "stationkeeper_system": "flux",
            "stationkeeper_state": str(self.path / "state"),
            **database_logins(database, PASSWORD),
            "test_directory": str(self.station.directory),
            "test_controller_pid": pid,
            "test_config": config,
        }
        wlce = {"station_site": "WLCE", "station_devices": list(devices)}
        children = {"stations": {"hosts": {"wlce": wlce}}, "hubs": {"hosts": {"hub": {}}}}
        (self.path / "hosts.yml").write_text(yaml.safe_dump({"all": {"vars": common, "children": children}}))

    def run(self, runbook: str, *arguments: str, **inputs: Any) -> int:
        """Run a runbook; its output is kept with its white space folded."""
        values = {"target": "wlce", "reason": "test", **inputs}
        if runbook == "device_add":
            values.setdefault("first_row_wait_s", 40)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        environment = {
            **kept,
            "PYTHONPATH": str(ROOT / "src"),
            "ANSIBLE_NOCOLOR": "1",
            # No vault is opened, and Ansible takes no empty list: some file as a password.
            "ANSIBLE_VAULT_IDENTITY_LIST": f"none@{__file__}",
            "ANSIBLE_CONFIG": str(self.path / "ansible.cfg"),
            "STATIONKEEPER_STATE": str(self.path / "state"),
        }
        program = str(Path(sys.executable).parent / "ansible-playbook")
        command = [
            program,
            "-i",
            "hosts.yml",
            f"playbooks/{runbook}.yml",
            "-e",
            json.dumps(values),
            *arguments,
        ]
        done = subprocess.run(
            command, cwd=self.path, env=environment, capture_output=True, text=True, check=False
        )
        self.output = " ".join((done.stdout + done.stderr).split())
        (self.path / "output").write_text(done.stdout + done.stderr)
        assert PASSWORD not in self.output
        return done.returncode

    def changed(self) -> int:
        """Return the number of changed tasks of the last run."""
        recap = self.output.split("PLAY RECAP")[1]
        return sum(
            int(part.removeprefix("changed=")) for part in recap.split() if part.startswith("changed=")
        )

    def traces(self) -> dict[str, str]:
        """Return what a check must leave alone: the station's files and the registry."""
        found = {"registry": json.dumps(self.registry())}
        for name in ("etc/config.yaml", "expected.json"):
            path = self.station.directory / name
            # Two programs write it, so its layout says nothing.
            found[name] = yaml.safe_dump(yaml.safe_load(path.read_text())) if path.exists() else ""
        return found

    def registry(self) -> dict[str, Any]:
        """Return the registry: for each name the end of its service and its metadata."""
        with self.database, self.database.cursor() as cursor:
            cursor.execute(
                "SELECT name, active_to::text, metadata FROM flux.mg_device_registry ORDER BY name"
            )
            return {name: {"active_to": end, **metadata} for name, end, metadata in cursor.fetchall()}

    def writes(self, unit: int | None = None) -> int:
        """Return the number of write requests that the devices have seen."""
        return sum(
            entry["function"] in WRITES and unit in (None, entry["unit"])
            for entry in self.station.served_entries()
            if "function" in entry
        )

    def end(self) -> None:
        """End all processes."""
        self.station.end()
        self.database.close()


def migrated(settings: dict[str, Any]) -> Connection:
    """Make tables, roles and rights as the migrations do."""
    connection = create_tables(settings)
    lifecycle = (ROOT / "migrations/flux/0005_device_lifecycle.sql").read_text()
    with connection, connection.cursor() as cursor:
        for role in ("flux_reader", "flux_operator"):
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
            if not cursor.fetchone():
                cursor.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'")
            cursor.execute(f"GRANT USAGE ON SCHEMA flux TO {role}")
            cursor.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA flux TO {role}")
        cursor.execute("GRANT INSERT, UPDATE ON flux.mg_device_registry TO flux_operator")
        for statement in split(lifecycle):
            cursor.execute(statement.text)
    return connection
