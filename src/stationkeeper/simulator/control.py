"""Faults, writes and the served log of a running simulator, over a unix socket that only its user can open.

One JSON object a line, answered by one: `{"result": ...}` or `{"error": "..."}`.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stationkeeper.simulator.config import Endpoint
from stationkeeper.simulator.fault_kinds import KINDS
from stationkeeper.simulator.faults import Fault, FaultError, parse_fault
from stationkeeper.simulator.server import SimulatorServer

_MAX_REQUEST_BYTES = 64 * 1024


class ControlError(ValueError):
    """A request that cannot be understood or done; the message names what is allowed."""


@dataclass(frozen=True)
class Served:
    """An endpoint, and those of its units that a request is about."""

    endpoint: Endpoint
    server: SimulatorServer
    units: frozenset[int]


class Control:
    """Answers requests for all servers of one process."""

    def __init__(self, servers: Sequence[tuple[Endpoint, SimulatorServer]]) -> None:
        self._all = [Served(endpoint, server, frozenset(endpoint.devices)) for endpoint, server in servers]
        self._server: asyncio.Server | None = None
        self._commands: dict[str, Callable[[dict[str, Any], list[Served], bool], Any]] = {
            "set": _set,
            "clear": _clear,
            "list": _list,
            "kinds": _kinds,
            "writes": _writes,
            "log": _log,
        }

    async def start(self, path: Path) -> None:
        """Listen at `path`; the socket that an earlier run has left is replaced. Raises `OSError`."""
        if path.is_socket():
            path.unlink()
        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, path, limit=_MAX_REQUEST_BYTES)
        finally:
            os.umask(before)

    async def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()

    def answer(self, line: bytes | str) -> dict[str, Any]:
        """Return the answer to one request, whatever it says."""
        try:
            return {"result": self._do(json.loads(line))}
        except (ControlError, FaultError) as error:
            return {"error": str(error)}
        except ValueError as error:
            return {"error": f"a request is one JSON object: {error}"}

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(self.answer(line), separators=(",", ":")).encode() + b"\n")
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # Gone, or a line without an end.
        finally:
            writer.close()

    def _do(self, request: Any) -> Any:
        names = list(self._commands)
        commands = [name for name in request if name in names] if isinstance(request, dict) else []
        if len(commands) != 1:
            raise ControlError(f"a request is an object with one of {', '.join(names)}")
        (command,) = commands
        others = set(request) - {command, "devices"}
        if others:
            raise ControlError(f"{command}: unknown {', '.join(sorted(others))}; beside it is only `devices`")
        arguments = request[command]
        if not isinstance(arguments, dict):
            raise ControlError(f"{command}: its arguments are an object, {{}} for none")
        if "devices" not in request:
            return self._commands[command](arguments, self._all, False)
        return self._commands[command](arguments, self._named(request["devices"]), True)

    def _named(self, names: Any) -> list[Served]:
        known = [device.name for one in self._all for device in one.endpoint.devices.values()]
        if not isinstance(names, list) or not names or not set(map(str, names)) <= set(known):
            raise ControlError(f"devices: a list of these names: {', '.join(known[:20])}")
        chosen = []
        for one in self._all:
            units = [unit for unit, device in one.endpoint.devices.items() if device.name in names]
            if units:
                chosen.append(Served(one.endpoint, one.server, frozenset(units)))
        return chosen


def ask(path: Path, request: dict[str, Any], timeout_s: float = 10) -> Any:
    """Return a running simulator's result. Raises `ControlError` for its error, `OSError` without one."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout_s)
        connection.connect(str(path))
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as lines:
            answer = json.loads(lines.readline() or b'{"error": "the simulator has closed the connection"}')
    if "error" in answer:
        raise ControlError(answer["error"])
    return answer["result"]


def _set(arguments: dict[str, Any], served: list[Served], named: bool) -> Any:
    fault = parse_fault(arguments)
    wanted: list[tuple[Served, Fault]] = []
    for one in served:
        if named and fault.unit is None and KINDS[fault.kind].per_unit:
            wanted += [(one, fault.model_copy(update={"unit": unit})) for unit in sorted(one.units)]
        else:
            wanted.append((one, fault))
    for one, each in wanted:
        # All before any: a fault is set everywhere that it was asked for, or nowhere.
        one.server.faults.check(each)
    return [
        {"listen": str(one.endpoint.listen), "number": one.server.faults.set(each)} for one, each in wanted
    ]


def _clear(arguments: dict[str, Any], served: list[Served], named: bool) -> Any:
    _only(arguments, "kind", "unit", "number")
    count = 0
    for one in served:
        for unit in sorted(one.units) if named else [None]:
            count += one.server.faults.clear(**({"unit": unit} if named else {}) | arguments)
    return count


def _list(arguments: dict[str, Any], served: list[Served], _named: bool) -> Any:
    _only(arguments)
    return [
        {"listen": str(one.endpoint.listen), "number": active.number, "hits": active.hits}
        | active.fault.model_dump(mode="json", exclude_defaults=True)
        for one in served
        for active in one.server.faults.active()
    ]


def _kinds(arguments: dict[str, Any], _served: list[Served], _named: bool) -> Any:
    _only(arguments)
    return {name: kind.text for name, kind in KINDS.items()}


def _writes(arguments: dict[str, Any], served: list[Served], _named: bool) -> Any:
    _only(arguments)
    return {one.endpoint.devices[unit].name: one.server.writes(unit) for one in served for unit in one.units}


def _log(arguments: dict[str, Any], served: list[Served], named: bool) -> Any:
    _only(arguments, "last")
    last = arguments.get("last", 20)
    if not isinstance(last, int) or last < 1:
        raise ControlError("log: `last` is the number of entries, at least 1")
    entries = [
        entry for one in served for entry in one.server.recent() if not named or entry["unit"] in one.units
    ]
    return sorted(entries, key=lambda entry: str(entry["at"]))[-last:]


def _only(arguments: dict[str, Any], *allowed: str) -> None:
    wrong = sorted(set(arguments) - set(allowed))
    if wrong:
        raise ControlError(f"unknown {', '.join(wrong)}; allowed: {', '.join(allowed) or 'nothing'}")
