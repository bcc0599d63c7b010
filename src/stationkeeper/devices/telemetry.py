"""Whether the registry and the telemetry know the same devices."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from stationkeeper.telemetry import freshness
from stationkeeper.telemetry.source import READINGS, REGISTRY, TelemetryError, reading, snapshot

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

POLL_S = 1.0

# From one device to the next along the primary key: the rows between are not read.
_SENDERS = """
WITH RECURSIVE sender AS (
    (SELECT device_id FROM {readings} WHERE time > now() - %(look_back)s ORDER BY device_id LIMIT 1)
    UNION ALL
    SELECT (SELECT x.device_id FROM {readings} x
            WHERE x.device_id > s.device_id AND x.time > now() - %(look_back)s
            ORDER BY x.device_id LIMIT 1)
    FROM sender s WHERE s.device_id IS NOT NULL)
SELECT s.device_id::text, r.name, r.active_to, l.time
FROM sender s
LEFT JOIN {registry} r ON r.id = s.device_id
CROSS JOIN LATERAL (SELECT x.time FROM {readings} x WHERE x.device_id = s.device_id
                    ORDER BY x.time DESC LIMIT 1) l
WHERE s.device_id IS NOT NULL
  AND (r.id IS NULL OR r.type <> %(type)s OR l.time > r.active_to + 2 * r.cadence + interval '1 minute')
ORDER BY 1
"""
_LAST = """
SELECT r.name, (SELECT x.time FROM {readings} x WHERE x.device_id = r.id ORDER BY x.time DESC LIMIT 1)
FROM {registry} r WHERE r.type = %(type)s AND r.name = ANY (%(names)s)
"""


@dataclass(frozen=True)
class Strangers:
    """Devices that one side knows and the other does not; sentences for an operator.

    ``unknown`` send without being registered (or into the table of another type), ``retired`` send after
    their end, ``never`` are registered and in service and never sent.
    """

    unknown: tuple[str, ...]
    retired: tuple[str, ...]
    never: tuple[str, ...]

    def as_dict(self) -> dict[str, list[str]]:
        """Return plain data."""
        return {key: list(value) for key, value in asdict(self).items()}


def strangers(
    connection: Connection, *, look_back: timedelta, schema: str = "flux", timeout_s: float = 30.0
) -> Strangers:
    """Compare the registry with who sent within ``look_back`` of now. Raises TelemetryError."""
    unknown, retired = [], []
    with snapshot(connection, timeout_s=timeout_s) as cursor:
        for kind, table in READINGS.items():
            values = {"type": kind, "look_back": look_back}
            cursor.execute(_query(_SENDERS, schema, table), values)
            for identifier, name, active_to, last in cursor.fetchall():
                when = last.isoformat()
                if name is None:
                    unknown.append(
                        f"{identifier} is not registered and sends {kind} rows, the last at {when}"
                    )
                elif active_to is None:
                    unknown.append(f"{name} sends {kind} rows, which is not its type, the last at {when}")
                else:
                    retired.append(
                        f"{name} was retired at {active_to.isoformat()} and still sent a row at {when}"
                    )
    silent = [entry for entry in freshness.ask(connection, schema=schema) if entry.state == "never"]
    return Strangers(tuple(unknown), tuple(retired), tuple(entry.message for entry in silent))


def last_rows(
    connection: Connection, names: Sequence[str], *, schema: str = "flux"
) -> dict[str, datetime | None]:
    """Return the time of each device's newest row, None where there is none. Raises TelemetryError."""
    found: dict[str, datetime | None] = {}
    with snapshot(connection, timeout_s=15) as cursor:
        for kind, table in READINGS.items():
            cursor.execute(_query(_LAST, schema, table), {"type": kind, "names": list(names)})
            found |= dict(cursor.fetchall())
    missing = sorted(set(names) - set(found))
    if missing:
        raise TelemetryError(f"the registry has no device {', '.join(missing)}")
    return found


def wait_for_rows(
    settings: Mapping[str, Any],
    names: Sequence[str],
    since: datetime,
    wait_s: float,
    *,
    now_s: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, datetime | None]:
    """Wait until every device has a row that is not older than ``since``, at most ``wait_s`` seconds.

    Returns each device's newest row, whatever its age. Raises TelemetryError.
    """
    end = now_s() + wait_s
    with reading(settings) as connection:
        while True:
            found = last_rows(connection, names)
            if all(last is not None and last >= since for last in found.values()) or now_s() >= end:
                return found
            sleep(POLL_S)


def _query(text: str, schema: str, table: str) -> Any:
    from psycopg2 import sql

    return sql.SQL(text).format(
        readings=sql.Identifier(schema, table), registry=sql.Identifier(schema, REGISTRY)
    )
