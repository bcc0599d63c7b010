"""A simulated battery that lives on real time, and Ansible modules run against it by Ansible itself."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from modbus_writing_bench import Bench, profile_content
from module_runner import PACKAGE, run_module

SYSTEM_PYTHON = "/usr/bin/python3"


class LiveBench:
    """The bench's battery (unit 1, doing 40 kW) in a thread of its own, stepping 20 times a second."""

    def __init__(self, directory: Path, **profile: Any) -> None:
        self._directory = directory
        self.content = profile_content(**profile)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.bench = Bench(self.content, directory)
        self._call(self.bench.open())
        self._steps = asyncio.run_coroutine_threadsafe(self._live(), self._loop)

    @property
    def port(self) -> int:
        return self.bench.port

    def fault(self, kind: str, **settings: Any) -> None:
        self.bench.fault(kind, **settings)

    def writes(self) -> int:
        return self.bench.server.writes()

    def mbpoll(self, kind: str, address: int, *values: str) -> str:
        """Read (or write) with an independent program; return what it printed for the register."""
        words = ["mbpoll", "-m", "tcp", "-p", str(self.port), "-a", "1", "-0", "-1", "-q", "-B"]
        words += ["-r", str(address), "-t", kind, "127.0.0.1", *(["--", *values] if values else [])]
        done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.split()[-1] if not values else ""

    def run(self, module: str, *, check: bool = False, python: str = sys.executable, **arguments: Any) -> Any:
        """Run a module once and return its result."""
        target = {"host": "127.0.0.1", "port": self.port, "response_timeout_s": 10, "connect_timeout_s": 10}
        return run_module(
            self._directory,
            module,
            target | arguments,
            check=check,
            python=python,
            package=PACKAGE if python == sys.executable else None,
            variables={
                "STATIONKEEPER_STATE": str(self.state),
                "STATIONKEEPER_AUDIT_SPOOL": str(self._directory / "spool"),
            },
        )

    @property
    def state(self) -> Path:
        return self._directory / "state"

    @property
    def audit(self) -> list[dict[str, Any]]:
        """The rows of the audit chain about writes."""
        lines = (self.state / "audit" / "chain.jsonl").read_text().splitlines()
        return [entry for entry in map(json.loads, lines) if entry["event"].startswith("WRITE")]

    def close(self) -> None:
        self._steps.cancel()
        self._call(self.bench.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            await self.bench.clock.sleep(0.05)
