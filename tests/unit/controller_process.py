"""A real controller and a real device simulator as processes, in a directory of the test's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from free_port import free_port
from stationkeeper.controller.orders import Order, give_order, withdraw_order

BATTERY_ID = "ab79127d-a435-5f3c-87bf-8943623e4134"
METER_ID = "ab79127d-a435-5f3c-87bf-8943623e4135"
NAMES = {BATTERY_ID: "B1", METER_ID: "M1"}
# The test says by a file whether the clock is synchronised; this machine's clock says nothing.
ENTRY = """
import sys
from pathlib import Path
from stationkeeper.controller import clock
clock.TIMESYNCD_FLAG, clock.CONTAINER_FLAG = Path(sys.argv.pop(1)), Path("/nowhere")
clock.kernel_says_synchronised = lambda: False
from stationkeeper.cli import main
sys.exit(main())
"""


def wait_until(condition: Callable[[], Any], what: str, within_s: float = 90) -> Any:
    """Return the condition's first true value; fail when it takes longer."""
    end = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"waited {within_s} s in vain for: {what}"
        time.sleep(0.05)


class Station:
    """One station: simulator, controller, files."""

    def __init__(self, directory: Path, state_dir: Path | None = None) -> None:
        self.directory = directory
        self.port, self.metrics_port = free_port(), free_port()
        self.etc, self.run_dir = directory / "etc", directory / "run"
        self.var = state_dir or directory / "var"
        for path in (self.etc, self.var / "latch"):
            path.mkdir(parents=True)
        self.clock_is_right = directory / "synchronized"
        self.clock_is_right.touch()
        self.served = directory / "served.jsonl"
        self.log = directory / "controller.log"
        self.simulator: subprocess.Popen[bytes] | None = None
        self.controller: subprocess.Popen[bytes] | None = None
        self.environment = dict(os.environ)
        self.configure()

    def configure(self, **controller: Any) -> None:
        """Write config.yaml; the arguments go to its section `controller`."""

        def device(identifier: str, unit: int, **more: Any) -> dict[str, Any]:
            modbus = {"host": "127.0.0.1", "port": self.port, "unit": unit, "timeout": "500ms"}
            return {"id": identifier, "name": NAMES[identifier], "modbus": modbus} | more

        section = {
            "poll_interval": "300ms",
            "components": [{"type": "to_soe", "target_soe_percent": 60, "power_kw": 50}],
        }
        self.config = {
            "site": "WLCE",
            "controller": section | controller,
            "data_platform": {"upload": {"batch_size": 20, "interval": "200ms"}},
            "devices": {
                "bess": [device(BATTERY_ID, 1, profile="generic_battery", rating_kw=100, capacity_kwh=200)],
                "meter": [device(METER_ID, 2, profile="generic_meter", measures="B1")],
            },
            "metrics": {"address": "127.0.0.1", "port": self.metrics_port},
            "logging": {"file": str(self.log)},
        }
        (self.etc / "config.yaml").write_text(yaml.safe_dump(self.config))

    def use_database(self, settings: dict[str, Any]) -> None:
        """Write database.yaml."""
        (self.etc / "database.yaml").write_text(yaml.safe_dump(settings))

    def start_simulator(self) -> None:
        """Start the devices and wait until they answer."""
        battery = {"unit": 1, "name": "B1", "profile": "generic_battery", "capacity_kwh": 200}
        config = {
            "listen": {"host": "127.0.0.1", "port": self.port},
            "log": str(self.served),
            "devices": [
                battery | {"initial_soe_percent": 80},
                {"unit": 2, "name": "M1", "profile": "generic_meter", "meter_of": "B1"},
            ],
        }
        path = self.directory / "simulator.yaml"
        path.write_text(yaml.safe_dump(config))
        command = [sys.executable, "-m", "stationkeeper.cli", "simulator", "run", "--config", path]
        self.simulator = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.simulator.stdout is not None
        assert b"serving" in self.simulator.stdout.readline()

    def command(self, *arguments: str) -> list[str]:
        """Return a command line of the controller for this station's directories."""
        places = [f"--config-dir={self.etc}", f"--state-dir={self.var}", f"--runtime-dir={self.run_dir}"]
        entry = [sys.executable, "-c", ENTRY, str(self.clock_is_right)]
        return [*entry, "controller", *arguments, *places]

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one action of the controller's command to its end."""
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, check=False, timeout=60
        )

    def start_controller(self) -> None:
        """Start the controller."""
        with (self.directory / "stderr").open("ab") as stream:
            self.controller = subprocess.Popen(self.command("run"), stderr=stream, env=self.environment)

    def order(self, kind: str, *, lasts_s: float | None = 3600, **fields: Any) -> None:
        """Give an order, as the module does; without ``lasts_s`` it has no end."""
        now = datetime.now(UTC).replace(microsecond=0)
        until = None if lasts_s is None else now + timedelta(seconds=lasts_s)
        fields = {"reason": "test", "run_id": str(time.monotonic_ns())} | fields
        give_order(Order(kind, owner="ops", since=now, until=until, **fields), self.var / "orders")

    def withdraw(self, kind: str) -> None:
        """Withdraw an order."""
        withdraw_order(kind, self.var / "orders")

    def kill_controller(self) -> None:
        """Kill it as a power cut would."""
        assert self.controller is not None
        self.controller.kill()
        self.controller.wait()

    def stop_controller(self) -> int:
        """Ask it to end and return its exit code."""
        assert self.controller is not None
        self.controller.send_signal(signal.SIGTERM)
        return self.controller.wait(30)

    def reload(self) -> None:
        """Ask it to read its configuration."""
        assert self.controller is not None
        self.controller.send_signal(signal.SIGHUP)

    def stop_simulator(self) -> None:
        """End the devices."""
        if self.simulator is not None:
            self.simulator.terminate()
            self.simulator.wait(10)
            assert self.simulator.stdout is not None
            self.simulator.stdout.close()
            self.simulator = None

    def end(self) -> None:
        """End everything that still runs."""
        if self.controller is not None and self.controller.poll() is None:
            self.kill_controller()
        self.stop_simulator()

    def metric(self, name: str, **labels: str) -> float | None:
        """Return a metric's value, None when it is not there."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=5) as answer:
                text = answer.read().decode()
        except OSError:
            return None
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == f"stationkeeper_{name}" and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return None

    def messages(self) -> str:
        """Return what the controller has logged to standard error."""
        return (self.directory / "stderr").read_text()

    def served_entries(self) -> list[dict[str, Any]]:
        """Return the simulator's log."""
        return [json.loads(line) for line in self.served.read_text().splitlines()]

    def commanded_kw(self) -> list[float]:
        """Return all set-points that were written to the battery, in order."""
        found = []
        for entry in self.served_entries():
            if entry["function"] == 16 and entry["address"] == 0 and "exception" not in entry:
                high, low = entry["written"]
                found.append(
                    int.from_bytes(bytes([high >> 8, high & 255, low >> 8, low & 255]), signed=True) / 1000
                )
        return found

    def served_samples(self) -> list[tuple[str, int]]:
        """Return device and heartbeat of every telemetry answer that was served."""
        counts = {"B1": 13, "M1": 10}
        return [
            (entry["device"], entry["words"][0] << 16 | entry["words"][1])
            for entry in self.served_entries()
            if entry["function"] == 4
            and entry["address"] == 0
            and entry.get("count") == counts[entry["device"]]
        ]
