"""Compare what the devices served with what the database holds: device by device, row by row.

A device's heartbeat grows with every answer, so it names the answer that a row came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from stationkeeper.profiles import Profile, ProfileError, Sample, load_profile
from stationkeeper.telemetry.served import Served
from stationkeeper.telemetry.source import READINGS, REGISTRY, Device, TelemetryError, check_tables, snapshot

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

# An answer can be on its way to a controller that is killed: it is lost, and nobody can help it.
KILL_BEFORE = timedelta(seconds=1)
KILL_AFTER = timedelta(seconds=3)
# How far the time of a row may be from the time of the answer.
TIME_TOLERANCE = timedelta(seconds=5)
_MAX_EVIDENCE = 20


@dataclass(frozen=True)
class Stored:
    """One row of the database."""

    device: str
    time: datetime
    heartbeat: int | None
    values: Sample


@dataclass
class DeviceResult:
    """What was found for one device. The lists hold all cases; ``as_dict`` shows the first twenty of each."""

    name: str
    served: int = 0
    stored: int = 0
    equal: int = 0
    missing: list[dict[str, Any]] = field(default_factory=list)
    invented: list[dict[str, Any]] = field(default_factory=list)
    differing: list[dict[str, Any]] = field(default_factory=list)
    in_flight: list[dict[str, Any]] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True when every answer is a row and every row an answer; in-flight ones are excused."""
        return not (self.missing or self.invented or self.differing)

    def as_dict(self) -> dict[str, Any]:
        """Return counts and evidence."""
        result: dict[str, Any] = {
            "device": self.name,
            "ok": self.ok,
            "served": self.served,
            "stored": self.stored,
            "equal": self.equal,
        }
        for name in ("missing", "invented", "differing", "in_flight"):
            cases = getattr(self, name)
            result[name] = len(cases)
            result[f"{name}_evidence"] = cases[:_MAX_EVIDENCE]
        return result


def reconcile(
    served: Sequence[Served],
    stored: Sequence[Stored],
    devices: Sequence[str],
    start: datetime,
    end: datetime,
    *,
    kills: Sequence[datetime] = (),
) -> list[DeviceResult]:
    """Judge the answers and rows of [start, end); ``kills`` are the moments when a controller was killed.

    Both sequences should reach a little beyond the window on either side, so that a pair that straddles an
    edge is still a pair. Raises TelemetryError when nothing was served in the window: that proves nothing.
    """
    results = []
    for name in devices:
        answers = [entry for entry in served if entry.device == name]
        rows = [row for row in stored if row.device == name]
        results.append(_one(name, answers, rows, (start, end), kills))
    if not any(result.served for result in results):
        raise TelemetryError("the served log has no sample in the window: nothing can be proven")
    return results


def _one(
    name: str,
    answers: Sequence[Served],
    rows: Sequence[Stored],
    window: tuple[datetime, datetime],
    kills: Sequence[datetime],
) -> DeviceResult:
    start, end = window
    result = DeviceResult(name)
    by_heartbeat: dict[int, list[Stored]] = {}
    for row in rows:
        if row.heartbeat is not None:
            by_heartbeat.setdefault(row.heartbeat, []).append(row)
    paired: set[int] = set()
    lost: list[Served] = []
    for answer in answers:
        inside = start <= answer.at < end
        result.served += inside
        candidates = [row for row in by_heartbeat.get(answer.heartbeat, []) if id(row) not in paired]
        if not candidates:
            if inside:
                lost.append(answer)
            continue
        row = min(candidates, key=lambda candidate: abs(candidate.time - answer.at))
        paired.add(id(row))
        if inside:
            _compare(answer, row, result)
    for row in rows:
        if start <= row.time < end:
            result.stored += 1
            if id(row) not in paired:
                reason = "no such answer was served"
                if row.heartbeat is not None and any(a.heartbeat == row.heartbeat for a in answers):
                    reason = "a second row for the same answer"
                result.invented.append({"at": _text(row.time), "heartbeat": row.heartbeat, "reason": reason})
    _excuse(lost, kills, result)
    return result


def _compare(answer: Served, row: Stored, result: DeviceResult) -> None:
    wrong: dict[str, Any] = {
        point: {"served": value, "stored": row.values.get(point)}
        for point, value in answer.values.items()
        if row.values.get(point) != value
    }
    if abs(row.time - answer.at) > TIME_TOLERANCE:
        wrong["time"] = {"served": _text(answer.at), "stored": _text(row.time)}
    if wrong:
        result.differing.append({"at": _text(row.time), "heartbeat": answer.heartbeat, "values": wrong})
    else:
        result.equal += 1


def _excuse(lost: Sequence[Served], kills: Sequence[datetime], result: DeviceResult) -> None:
    """For each kill at most one answer may have been in flight; every other lost answer is missing."""
    excused: set[int] = set()
    for kill in kills:
        near = [
            answer
            for answer in lost
            if id(answer) not in excused and kill - KILL_BEFORE <= answer.at <= kill + KILL_AFTER
        ]
        if near:
            excused.add(id(min(near, key=lambda answer: abs(answer.at - kill))))
    for answer in lost:
        case = {"at": _text(answer.at), "heartbeat": answer.heartbeat, "client": answer.client}
        (result.in_flight if id(answer) in excused else result.missing).append(case)


def find_devices(
    connection: Connection, names: Sequence[str], *, schema: str = "flux", timeout_s: float = 30.0
) -> dict[str, Device]:
    """Return the registry's devices of these names. Raises TelemetryError for one that it does not have."""
    from psycopg2 import sql

    with snapshot(connection, timeout_s=timeout_s) as cursor:
        cursor.execute(
            sql.SQL(
                "SELECT id::text, name, site, type, profile, extract(epoch FROM cadence)::float8"
                " FROM {} WHERE name = ANY (%s)"
            ).format(sql.Identifier(schema, REGISTRY)),
            (list(names),),
        )
        found = {row[1]: Device(*row) for row in cursor.fetchall()}
    unknown = sorted(set(names) - set(found))
    if unknown:
        raise TelemetryError(f"the registry {schema}.{REGISTRY} has no device {', '.join(unknown)}")
    return found


def load_profiles(devices: Mapping[str, Device]) -> dict[str, Profile]:
    """Return the profile of every device. Raises TelemetryError for one that is not there or broken."""
    try:
        return {name: load_profile(device.profile) for name, device in devices.items()}
    except ProfileError as error:
        raise TelemetryError(str(error)) from None


def fetch_rows(
    connection: Connection,
    devices: Mapping[str, Device],
    profiles: Mapping[str, Profile],
    start: datetime,
    end: datetime,
    *,
    schema: str = "flux",
    timeout_s: float = 60.0,
) -> list[Stored]:
    """Return the rows of these devices in [start, end) with the columns that their profiles name."""
    from psycopg2 import sql

    rows: list[Stored] = []
    with snapshot(connection, timeout_s=timeout_s) as cursor:
        check_tables(cursor, schema)
        for name, device in devices.items():
            points = profiles[name].telemetry.points
            query = sql.SQL(
                "SELECT time, {columns} FROM {readings} WHERE device_id = %s AND time >= %s AND time < %s"
                " ORDER BY time"
            ).format(
                columns=sql.SQL(", ").join(sql.Identifier(point) for point in points),
                readings=sql.Identifier(schema, READINGS[device.type]),
            )
            cursor.execute(query, (device.id, start, end))
            for time, *values in cursor.fetchall():
                sample = dict(zip(points, values, strict=True))
                heartbeat = sample[profiles[name].heartbeat]
                rows.append(Stored(name, time.astimezone(UTC), heartbeat, sample))
    return rows


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
