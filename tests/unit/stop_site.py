"""A fleet for the tests of the stop command: simulated batteries, a stop bundle, and a program called ssh.

The program runs what ssh would run on a station, in a directory of that station instead of its file system.
Real ssh to real hosts is the lab's part (ring 4).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]

_SSH = """#!{python}
import os, shlex, subprocess, sys
words = sys.argv[sys.argv.index("--") + 1:]
root = os.path.join({root!r}, words[0])
with open(os.path.join({root!r}, "ssh.log"), "a") as log:
    log.write(words[0] + " " + words[1] + "\\n")
if not os.path.isdir(root):
    sys.stderr.write("ssh: connect to host " + words[0] + ": No route to host\\n")
    sys.exit(255)
command = shlex.split(words[1])
assert command[:2] == ["sudo", "-n"], command
if command[2:] == ["python3", "-I", "-"]:
    text = sys.stdin.read()
    for place in ("/var/lib/bess_controller", "/run/bess_controller"):
        assert place in text
        text = text.replace(place, root + place)
    sys.exit(subprocess.run([sys.executable, "-I", "-"], input=text, text=True).returncode)
assert command[2] == "/opt/stationkeeper/venv/bin/stationkeeper", command
places = ["--config-dir", root + "/etc", "--state-dir", root + "/var/lib/bess_controller",
          "--runtime-dir", root + "/run/bess_controller"]
sys.exit(subprocess.run([sys.executable, "-m", "stationkeeper.cli", *command[3:], *places]).returncode)
"""


class StopSite:
    """Stations in a directory; ``port`` of each is where its simulated battery answers."""

    def __init__(self, directory: Path) -> None:
        self.hosts = directory / "hosts"
        self.state = directory / "state"
        self.hosts.mkdir()
        programs = directory / "bin"
        programs.mkdir()
        ssh = programs / "ssh"
        ssh.write_text(_SSH.format(python=sys.executable, root=str(self.hosts)))
        ssh.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "src"),
            "STATIONKEEPER_STATE": str(self.state),
            "STATIONKEEPER_AUDIT_SPOOL": str(directory / "spool"),
        }
        self._stations: dict[str, dict[str, Any]] = {}

    def add(
        self, name: str, port: int, *, ssh: bool = True, local_port: int | None = None, **more: Any
    ) -> None:
        """Add a station whose battery the centre reaches at ``port`` and the station at ``local_port``."""
        end = {"host": "127.0.0.1", "port": port}
        battery = {"station": name, "name": f"{name}-bess", **end, "unit": 1, "profile": "generic_battery"}
        battery |= {"meter": {**end, "unit": 2, "profile": "generic_meter"}, **more}
        self._stations[name] = {"devices": [battery], "ssh": {"host": name}, "contact": f"+39 {name}"}
        if ssh:
            self.connect(name)
        if local_port is not None:
            self._configure(name, local_port)

    def connect(self, name: str) -> None:
        """Let ssh reach a station."""
        for place in ("var/lib/bess_controller/latch", "run/bess_controller", "etc"):
            (self.hosts / name / place).mkdir(parents=True, exist_ok=True)

    def _configure(self, name: str, port: int) -> None:
        end = {"host": "127.0.0.1", "port": port}
        identifier = "00000000-0000-5000-8000-00000000000"
        battery = {"id": identifier + "1", "name": f"{name}-bess", "profile": "generic_battery"}
        battery |= {"modbus": {**end, "unit": 1}, "rating_kw": 100.0, "capacity_kwh": 200.0}
        meter = {"id": identifier + "2", "name": f"{name}-meter", "profile": "generic_meter"}
        meter |= {"modbus": {**end, "unit": 2}, "measures": f"{name}-bess"}
        config = {"site": name, "devices": {"bess": [battery], "meter": [meter]}, "metrics": {"port": 1}}
        (self.hosts / name / "etc" / "config.yaml").write_text(yaml.safe_dump(config))

    def latch(self, name: str) -> Path:
        """Return where a station's latch lies."""
        return self.hosts / name / "var/lib/bess_controller/latch/emergency_stop.json"

    def write_bundle(self) -> Path:
        """Write the bundle of all stations so far."""
        from stationkeeper.stopping import bundle

        path = self.state / "stop_bundle" / "test.json"
        built = bundle.build("test", self._stations, {"stations": list(self._stations)}, [], "then")
        bundle.write_bundle(path, built)
        return path

    def stop(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run ``stationkeeper stop``."""
        pace = ["--window-s", "6", "--hold-s", "0.5", "--keep-trying-s", "0"]
        return subprocess.run(
            [sys.executable, "-m", "stationkeeper.cli", "stop", *pace, *arguments],
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def report(self) -> dict[str, Any]:
        """Return the newest report."""
        reports = sorted((self.state / "stops").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
        content: dict[str, Any] = json.loads(reports[-1].read_text())
        return content

    def pending(self) -> dict[str, Any]:
        """Return the stop orders that wait."""
        path = self.state / "pending" / "edge_emergency_stop.json"
        entries: dict[str, Any] = json.loads(path.read_text())["entries"] if path.exists() else {}
        return entries
