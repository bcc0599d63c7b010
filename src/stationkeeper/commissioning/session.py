"""A commissioning on real connections: the gateway's lock, signals, and the report's file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stationkeeper.commissioning.line import Line
from stationkeeper.commissioning.procedure import commission
from stationkeeper.commissioning.types import Options, OptionsError, RealClock, Report
from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.endpoint_lock import default_directory, endpoint_lock
from stationkeeper.runbooks.state import state_directory
from stationkeeper.station.devices import Target

# Whoever else uses the gateway is given this long to finish.
_LOCK_S = 10.0
_SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


async def commission_target(
    target: Target, meter: Target | None, options: Options, *, owner: str, dry_run: bool
) -> Report:
    """Commission a battery over Modbus; signals that end a program end it at zero.

    Raises `OptionsError` before anything is sent, and `ModbusError` when another program holds the gateway.
    """
    if target.profile.device_type != "bess":
        raise OptionsError(
            f"{target.name} is a {target.profile.device_type}; only batteries are commissioned"
        )
    options.power_for(target)
    task, loop = asyncio.current_task(), asyncio.get_running_loop()

    def interrupt() -> None:
        # Once: impatience must not keep the device from zero.
        if task is not None and not task.cancelling():
            task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, interrupt)
    client = _client(target, options)
    own_meter = meter is not None and (meter.host, meter.port) != (target.host, target.port)
    # Many gateways have a single session: two units behind one share it.
    meter_client = _client(meter, options) if meter and own_meter else client
    clock = RealClock()
    line = Line(target, client, clock, meter, meter_client)
    try:
        async with endpoint_lock(
            default_directory(), target.host, target.port, timeout_s=_LOCK_S, owner=owner
        ):
            today = datetime.now(UTC).date()
            return await commission(line, options, clock, today=today, dry_run=dry_run)
    finally:
        await client.close()
        await meter_client.close()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


def write_report(report: Report, about: dict[str, Any], directory: Path | None = None) -> Path:
    """Write the report to a new file in ``$STATIONKEEPER_STATE/commissioning`` and return its path."""
    folder = directory or state_directory() / "commissioning"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    now = datetime.now(UTC)
    path = folder / f"{report.device}-{now:%Y%m%dT%H%M%SZ}.json"
    content = {"at": now.isoformat(timespec="seconds"), **about, **report.as_dict()}
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
    return path


def commissioned(directory: Path | None = None) -> set[tuple[str, str]]:
    """Return device name and endpoint of every report that passed; those that cannot be read do not count."""
    found = set()
    for path in sorted((directory or state_directory() / "commissioning").glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["passed"] is True:
                found.add((content["device"], content["endpoint"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


def _client(target: Target, options: Options) -> StrictClient:
    gap_s = target.profile.min_request_gap_ms / 1000
    return StrictClient(target.host, target.port, options.timeout_s, options.timeout_s, min_gap_s=gap_s)
