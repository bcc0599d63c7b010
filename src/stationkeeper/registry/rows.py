"""Rows of the device registry: from the inventory, and converged into ``flux.mg_device_registry``.

Standard library only (psycopg2 comes in with the connection): Ansible ships this file to the database host.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .identity import device_id

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

TYPES = ("bess", "meter")
# What of an inventory's device becomes metadata. The rest has its own column or is the station's matter.
_METADATA = ("modbus", "rating_kw", "capacity_kwh", "measures", "writes_enabled")
_COLUMNS = ("id", "name", "type", "site", "profile", "cadence_s", "active_from", "active_to", "metadata")


class RegistryError(ValueError):
    """A device is declared wrongly or contradicts the registry; the message names it."""


@dataclass(frozen=True)
class Row:
    """One device. Times are aware and None where the inventory says nothing; the cadence is in seconds."""

    id: str
    name: str
    type: str
    site: str
    profile: str
    cadence_s: float
    active_from: datetime.datetime | None = None
    active_to: datetime.datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the row as JSON types; times as RFC 3339 text in UTC."""
        result = {column: getattr(self, column) for column in _COLUMNS}
        for column in ("active_from", "active_to"):
            moment = result[column]
            result[column] = moment.astimezone(datetime.UTC).isoformat() if moment else None
        result["metadata"] = dict(self.metadata)
        return result


@dataclass(frozen=True)
class Plan:
    """What has to be done. ``unlisted`` are active devices that the inventory does not name (kept)."""

    inserts: tuple[Row, ...]
    updates: tuple[tuple[Row, Row], ...]
    unchanged: int
    unlisted: tuple[str, ...]


def from_station(system: str, station: str, site: str, devices: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Return the rows of one station's device list as the inventory has it. Raises RegistryError."""
    rows = []
    for device in devices:
        name = str(device.get("name") or "")
        if not name:
            raise RegistryError(f"station {station}: a device has no name")
        metadata = {"station": station} | {key: device[key] for key in _METADATA if key in device}
        declared = {"site": site, **device, "metadata": metadata | dict(device.get("metadata") or {})}
        try:
            declared.setdefault("id", str(device_id(system, site, name)))
        except ValueError as error:
            raise RegistryError(f"station {station}: {error}") from None
        rows.append(from_mapping(declared))
    return rows


def from_mapping(device: Mapping[str, Any]) -> Row:
    """Return a row of a plain mapping (columns by name, ``cadence_s`` in seconds). Raises RegistryError."""
    name = str(device.get("name") or "?")
    for key in ("id", "name", "type", "site", "profile", "cadence_s"):
        if device.get(key) in (None, ""):
            raise RegistryError(f"device {name}: {key} is missing")
    if device["type"] not in TYPES:
        raise RegistryError(f"device {name}: type is {device['type']!r}; it must be {' or '.join(TYPES)}")
    try:
        cadence_s = float(device["cadence_s"])
    except (TypeError, ValueError):
        raise RegistryError(f"device {name}: cadence_s is {device['cadence_s']!r}, not a number") from None
    if not 0 < cadence_s <= 86_400:
        raise RegistryError(f"device {name}: cadence_s is {cadence_s:g}; it must be above 0, at most a day")
    return Row(
        id=str(device["id"]).lower(),
        name=name,
        type=str(device["type"]),
        site=str(device["site"]),
        profile=str(device["profile"]),
        cadence_s=cadence_s,
        active_from=_moment(name, "active_from", device.get("active_from")),
        active_to=_moment(name, "active_to", device.get("active_to")),
        metadata=dict(device.get("metadata") or {}),
    )


def _moment(name: str, key: str, value: Any) -> datetime.datetime | None:
    if value in (None, ""):
        return None
    try:
        moment = (
            value if isinstance(value, datetime.datetime) else datetime.datetime.fromisoformat(str(value))
        )
    except ValueError:
        raise RegistryError(f"device {name}: {key} is {value!r}, not an RFC 3339 time") from None
    if moment.tzinfo is None:
        raise RegistryError(f"device {name}: {key} {value} has no time zone; write 2026-01-31T12:00:00Z")
    return moment


def plan(current: Sequence[Row], wanted: Sequence[Row]) -> Plan:
    """Compare the registry with the wanted rows.

    A time that the wanted row leaves open is kept as it is in the registry. Raises RegistryError for a name
    or identifier that is used twice, for a device that would change its type or site, and for one that is
    retired: its name and identifier belong to its history.
    """
    for key in ("id", "name"):
        seen: set[str] = set()
        for row in wanted:
            if getattr(row, key) in seen:
                raise RegistryError(f"device {row.name}: the {key} {getattr(row, key)} is used twice")
            seen.add(getattr(row, key))
    by_id = {row.id: row for row in current}
    wanted_ids = {row.id for row in wanted}
    owners = {row.name: row for row in current if row.id not in wanted_ids}
    inserts, updates = [], []
    for row in wanted:
        if row.name in owners:
            raise RegistryError(
                f"device {row.name}: the registry has this name with id {owners[row.name].id}, "
                f"the inventory gives {row.id}; declare `id:` to keep the registry's"
            )
        known = by_id.get(row.id)
        if known is None:
            inserts.append(row)
            continue
        for key in ("type", "site"):
            if getattr(known, key) != getattr(row, key):
                raise RegistryError(
                    f"device {row.name}: {key} cannot change from {getattr(known, key)} to "
                    f"{getattr(row, key)}; retire it (active_to) and register a new device"
                )
        if known.active_to and not row.active_to:
            raise RegistryError(
                f"device {row.name}: it was retired at {known.active_to.isoformat()}, and a name and its "
                "identifier are never used again; give the new device a name of its own"
            )
        merged = _keep_open_times(known, row)
        if merged != known:
            updates.append((known, merged))
    unlisted = sorted(row.name for row in current if row.id not in wanted_ids and row.active_to is None)
    unchanged = len(wanted) - len(inserts) - len(updates)
    return Plan(tuple(inserts), tuple(updates), unchanged, tuple(unlisted))


def _keep_open_times(known: Row, row: Row) -> Row:
    values = {column: getattr(row, column) for column in _COLUMNS}
    values["active_from"] = row.active_from or known.active_from
    values["active_to"] = row.active_to or known.active_to
    return Row(**values)


def read(connection: Connection) -> list[Row] | None:
    """Return the registry's rows by name, or None when the table does not exist yet."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('flux.mg_device_registry') IS NOT NULL")
        found = cursor.fetchone()
        if not (found and found[0]):
            return None
        cursor.execute(
            "SELECT id::text, name, type, site, profile, extract(epoch FROM cadence)::float8, active_from,"
            " active_to, metadata FROM flux.mg_device_registry ORDER BY name"
        )
        return [Row(*row) for row in cursor.fetchall()]


def write(connection: Connection, todo: Plan) -> None:
    """Insert and update as planned, without a commit."""
    with connection.cursor() as cursor:
        for row in todo.inserts:
            cursor.execute(
                "INSERT INTO flux.mg_device_registry"
                " (id, name, type, site, profile, cadence, active_from, active_to, metadata)"
                " VALUES (%s, %s, %s, %s, %s, make_interval(secs => %s), coalesce(%s, now()), %s, %s)",
                (row.id, row.name, row.type, row.site, row.profile, *_values(row)),
            )
        for _, row in todo.updates:
            cursor.execute(
                "UPDATE flux.mg_device_registry SET name = %s, profile = %s,"
                " cadence = make_interval(secs => %s), active_from = %s, active_to = %s, metadata = %s"
                " WHERE id = %s",
                (row.name, row.profile, *_values(row), row.id),
            )


def _values(row: Row) -> tuple[float, datetime.datetime | None, datetime.datetime | None, str]:
    return row.cadence_s, row.active_from, row.active_to, json.dumps(row.metadata, sort_keys=True)


def forget(connection: Connection, identifiers: Sequence[str]) -> list[str]:
    """Take back rows that a failed run has just inserted; return their names. Without a commit.

    The database refuses a row that is older than an hour or retired: such a device has a history.
    """
    with connection.cursor() as cursor:
        cursor.execute(
            "DELETE FROM flux.mg_device_registry WHERE id = ANY (%s::uuid[]) RETURNING name",
            (list(identifiers),),
        )
        return sorted(str(row[0]) for row in cursor.fetchall())


def lock(connection: Connection) -> None:
    """Keep other writers out of the registry until the transaction ends."""
    with connection.cursor() as cursor:
        cursor.execute("LOCK TABLE flux.mg_device_registry IN SHARE ROW EXCLUSIVE MODE")
