"""Read the log in which a device simulator says what it answered."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from stationkeeper.modbus.client import Table
from stationkeeper.profiles import Profile, Sample, decode_sample
from stationkeeper.telemetry.source import TelemetryError, aware

_FUNCTIONS = {1: Table.COIL, 2: Table.DISCRETE, 3: Table.HOLDING, 4: Table.INPUT}


@dataclass(frozen=True)
class Served:
    """One sample that a device answered with. ``client`` is the address that asked, with its port."""

    device: str
    at: datetime
    client: str
    heartbeat: int
    values: Sample


@dataclass(frozen=True)
class ServedLog:
    """What the logs hold: samples in order of time, and how many other and unreadable lines there were."""

    samples: tuple[Served, ...]
    other: int
    unreadable: int


def parse_unit_map(text: str) -> dict[int, str]:
    """Return unit -> device name from ``1=WLCE-BESS-01,2=WLCE-METER-01``. Raises TelemetryError."""
    result: dict[int, str] = {}
    for part in text.split(","):
        unit, separator, name = (piece.strip() for piece in part.partition("="))
        if not separator or not unit.isdigit() or not name:
            raise TelemetryError(f"unit map {text!r}: write 1=NAME,2=NAME")
        if int(unit) in result:
            raise TelemetryError(f"unit map {text!r}: unit {unit} is there twice")
        result[int(unit)] = name
    return result


def read_log(
    paths: Sequence[Path],
    units: Mapping[int, str],
    profiles: Mapping[str, Profile],
    *,
    clients: Sequence[str] | None = None,
) -> ServedLog:
    """Read served-PDU logs (several where the log was rotated).

    One answered read of exactly the telemetry block of the unit's profile is one sample; all else is counted
    as other. ``profiles`` is by device name. With ``clients`` only answers to these addresses are samples, so
    that a second reader of the same block is told apart. Raises TelemetryError when a file is unreadable.
    """
    samples: list[Served] = []
    other = unreadable = 0
    for path in paths:
        try:
            lines = path.read_bytes().splitlines()
        except OSError as error:
            raise TelemetryError(f"{path} cannot be read: {error.strerror}") from None
        for line in lines:
            try:
                entry = json.loads(line)
                sample = _sample(entry, units, profiles, clients)
            except (ValueError, KeyError, TypeError, AttributeError, TelemetryError):
                # The last line of a simulator that lost its power.
                unreadable += 1
                continue
            if sample is None:
                other += 1
            else:
                samples.append(sample)
    return ServedLog(tuple(sorted(samples, key=lambda served: served.at)), other, unreadable)


def _sample(
    entry: Mapping[str, Any],
    units: Mapping[int, str],
    profiles: Mapping[str, Profile],
    clients: Iterable[str] | None,
) -> Served | None:
    at = aware(datetime.fromisoformat(entry["at"]))
    name = units.get(entry["unit"])
    if name is None or "words" not in entry or "count" not in entry:
        return None
    profile = profiles[name]
    block = profile.telemetry
    asked = (_FUNCTIONS.get(entry["function"]), entry["address"], entry["count"])
    if asked != (block.table, block.address, block.count):
        return None
    client = str(entry["client"])
    if clients is not None and client.rpartition(":")[0] not in clients and client not in clients:
        return None
    values = decode_sample(entry["words"], profile)
    heartbeat = values[profile.heartbeat]
    if heartbeat is None:
        raise TelemetryError("a sample without a heartbeat cannot be traced")
    return Served(name, at, client, int(heartbeat), values)
