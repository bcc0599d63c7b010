"""A whole system in the lab, as its operator sees it: plays, rows, Modbus. Used by the demo and by ring 4.

Everything here looks from outside: ansible-playbook as a process, SQL through psycopg2, power through mbpoll,
which shares no code with this repository.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from stationkeeper.database.connection import connect
from stationkeeper.secrets.files import read
from stationkeeper.secrets.rotation import SINCE, SUFFIX
from stationkeeper.secrets.vault import SECRETS, folder_of, label_of

ROOT = Path(__file__).resolve().parent.parent
# What the first converge of a lab has told, in its state.
FIRST_CONVERGE = "first_converge.log"
RECAP = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Play:
    """One finished ansible-playbook: exit code, whole output, seconds, recap per host."""

    code: int
    output: str
    seconds: float

    @property
    def recap(self) -> dict[str, dict[str, int]]:
        names = ("ok", "changed", "unreachable", "failed")
        return {
            match[1]: dict(zip(names, (int(number) for number in match.groups()[1:]), strict=True))
            for match in RECAP.finditer(self.output)
        }

    @property
    def changed(self) -> dict[str, int]:
        """Hosts on which anything changed, with the number of changed tasks."""
        return {host: counts["changed"] for host, counts in self.recap.items() if counts["changed"]}


class LabSystem:
    """One inventory that runs in the lab. ``state`` is the control node's state directory."""

    def __init__(self, inventory: Path, state: Path) -> None:
        self.inventory = inventory
        self.state = state
        self.name = inventory.name
        secrets = folder_of(inventory)
        self._opened: dict[int, dict[str, str]] = {}
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "STATIONKEEPER_STATE": str(state),
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_NOCOLOR": "1",
            # For an inventory that lies elsewhere, which ansible.cfg does not name.
            "STATIONKEEPER_INVENTORIES": str(secrets.parents[2]),
            "ANSIBLE_VAULT_IDENTITY_LIST": f"{label_of(secrets)}@{ROOT}/inventories/vault-password-client.py",
        }

    @property
    def addresses(self) -> dict[str, str]:
        """The address of every host by its name."""
        groups = yaml.safe_load((self.inventory / "hosts.yml").read_text())["all"]["children"]
        return {
            name: variables["ansible_host"]
            for group in groups.values()
            for name, variables in group["hosts"].items()
            # A host of two groups has it in one of them.
            if variables
        }

    def hosts(self, group: str) -> list[str]:
        """The names of a group's hosts, in the inventory's order."""
        groups = yaml.safe_load((self.inventory / "hosts.yml").read_text())["all"]["children"]
        return list(groups[group]["hosts"])

    @property
    def stations(self) -> list[str]:
        return self.hosts("stations")

    def run(
        self, *command: str | Path, check: bool = True, timeout: float = 600
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the repository with this system's environment; output is captured."""
        return subprocess.run(
            [str(part) for part in command],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=check,
            timeout=timeout,
        )

    def labctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        verb, *rest = arguments
        return self.run(ROOT / "lab" / "labctl", verb, self.inventory, *rest, check=check)

    def playbook(
        self,
        name: str,
        variables: Mapping[str, Any] | None = None,
        *options: str,
        on_line: Callable[[str], None] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> Play:
        """Run ``playbooks/<name>.yml``; ``on_line`` gets each line of output as it comes."""
        command = ["ansible-playbook", "-i", str(self.inventory), f"playbooks/{name}.yml", *options]
        if variables:
            command += ["-e", json.dumps(dict(variables))]
        started = time.monotonic()
        lines: list[str] = []
        with subprocess.Popen(
            command,
            cwd=ROOT,
            env={**self.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line)
                if on_line:
                    on_line(line.rstrip("\n"))
        return Play(process.returncode, "".join(lines), time.monotonic() - started)

    @cached_property
    def secrets(self) -> dict[str, str]:
        """Every secret of the inventory by its name, as they were at the first look."""
        return {name: value for name, value in self._vault().items() if not name.endswith((SINCE, SUFFIX))}

    def _vault(self) -> dict[str, str]:
        """Return what the vault has now: a rotation changes it, and to open it takes a while."""
        folder = folder_of(self.inventory)
        written = (folder / SECRETS).stat().st_mtime_ns
        if written not in self._opened:
            self._opened = {written: read(folder)}
        return self._opened[written]

    def database_settings(self, role: str = "reader") -> dict[str, Any]:
        password = f"secret_flux_{role}_password"
        return {
            "hosts": [self.addresses[host] for host in self.hosts("databases")],
            "port": 5432,
            "name": "flux",
            "user": f"flux_{role}{self._vault().get(password + SUFFIX, '')}",
            "password": self._vault()[password],
            "sslmode": "require",
        }

    def query(
        self, statement: str, parameters: Sequence[Any] = (), role: str = "reader"
    ) -> list[tuple[Any, ...]]:
        """Run one statement in its own session and return its rows."""
        session = connect(self.database_settings(role), application_name="stationkeeper-lab")
        try:
            with session, session.cursor() as cursor:
                cursor.execute(statement, parameters)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            session.close()

    def measured(self, query: str) -> list[dict[str, Any]]:
        """Return the samples that the hub's Prometheus has for a query."""
        return list(self.prometheus("query", query=query)["result"])

    def prometheus(self, path: str, **parameters: str) -> Any:
        """Return the data that the hub's Prometheus answers to a request of its API."""
        server = f"http://{self.addresses[self.hosts('hubs')[0]]}:9090"
        address = f"{server}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=10) as answer:  # noqa: S310 (the lab's own host)
            return json.load(answer)["data"]

    def rows_by_station(self) -> dict[str, int]:
        """Stored battery and meter readings of each station."""
        counted = self.query(
            """
            SELECT lower(device.site), count(*)
            FROM flux.mg_device_registry AS device
            JOIN (SELECT device_id FROM flux.mg_bess_readings
                  UNION ALL SELECT device_id FROM flux.mg_meter_readings) AS reading
              ON reading.device_id = device.id
            GROUP BY 1 ORDER BY 1
            """
        )
        return {site: int(count) for site, count in counted}

    def power_kw(self, station: str, unit: int = 1) -> float:
        """Measured power of a station's battery in kW, + discharging, read over Modbus by mbpoll.

        The generic profiles' register, spelt out anew: input 2 and 3, int32, 0.001 kW. Unit 1 is the battery
        and unit 2 its meter.
        """
        high, low = self.mbpoll(station, unit, "input", 2, 2)
        raw = high << 16 | low
        return (raw - (1 << 32) if raw >> 31 else raw) / 1000

    def mbpoll(self, station: str, unit: int, table: str, address: int, count: int) -> list[int]:
        """Read registers with mbpoll (libmodbus), an independent client; ``address`` counts from 0."""
        kind = {"input": "3:hex", "holding": "4:hex"}[table]
        command = ["mbpoll", "-m", "tcp", "-a", str(unit), "-0", "-r", str(address), "-c", str(count)]
        command += ["-t", kind, "-1", "-q", self.addresses[station]]
        output = self.run(*command, timeout=20).stdout
        return [int(word, 16) for word in re.findall(r"^\[\d+\]:\s+0x([0-9A-Fa-f]{4})", output, re.MULTILINE)]

    def on_host(self, host: str, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command as root on a lab host, past its network (the lab's own door)."""
        return self.labctl("exec", host, "--", *command, check=check)

    def psql(self, host: str, statement: str, database: str = "flux") -> str:
        """Run a statement on a database host as postgres, past its network, and return what psql prints."""
        command = [
            "runuser",
            "-u",
            "postgres",
            "--",
            "psql",
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            database,
        ]
        return self.on_host(host, *command, "-c", statement).stdout.strip()

    def primary(self) -> str:
        """Return the database host that is primary; all must be up, and one of them is."""
        asked = {
            host: self.psql(host, "SELECT pg_is_in_recovery()", "postgres")
            for host in self.hosts("databases")
        }
        found = [host for host, standby in asked.items() if standby == "f"]
        assert len(found) == 1, f"primaries: {found}"
        return found[0]

    def standby(self) -> str:
        """Return the first database host that is not primary; all must be up."""
        primary = self.primary()
        return next(host for host in self.hosts("databases") if host != primary)

    def wait(
        self, what: str, condition: Callable[[], bool], timeout_s: float, interval_s: float = 1.0
    ) -> float:
        """Wait until a condition holds and return the seconds it took; raises TimeoutError that says what."""
        started = time.monotonic()
        while not condition():
            if time.monotonic() - started > timeout_s:
                raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
            time.sleep(interval_s)
        return time.monotonic() - started
