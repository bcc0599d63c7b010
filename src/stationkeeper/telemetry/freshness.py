"""How old the last row of every registered device is, silent devices included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from stationkeeper.telemetry.source import (
    READINGS,
    REGISTRY,
    Device,
    TelemetryError,
    check_sites,
    check_tables,
    rfc3339,
    snapshot,
)

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

STATES = ("ok", "late", "silent", "never")
# In the words of a health check: a device that is late may come back by itself, a silent one will not.
HEALTH = {"ok": "ok", "late": "degraded", "silent": "critical", "never": "critical"}

# A row stamped with the future must not make a dead device look fresh for ever, so it is not looked at.
_QUERY = """
SELECT r.id::text, r.name, r.site, r.profile, extract(epoch FROM r.cadence)::float8, l.time,
       extract(epoch FROM now() - l.time)::float8, extract(epoch FROM now() - r.active_from)::float8
FROM {registry} r
LEFT JOIN LATERAL (
    SELECT x.time FROM {readings} x
    WHERE x.device_id = r.id AND x.time <= now() + interval '1 minute'
    ORDER BY x.time DESC LIMIT 1) l ON true
WHERE r.type = %(type)s AND r.active_from <= now() AND coalesce(r.active_to, 'infinity') > now()
  AND (%(sites)s::text[] IS NULL OR r.site = ANY (%(sites)s::text[]))
"""


@dataclass(frozen=True)
class Limits:
    """When a device is late and when silent: cadences without a row, plus the time an upload takes."""

    late_cadences: float = 3.0
    silent_cadences: float = 10.0
    settle_s: float = 30.0


@dataclass(frozen=True)
class Freshness:
    """One device. ``age_s`` and ``last`` are None when it never sent a row."""

    device: Device
    state: str
    last: datetime | None
    age_s: float | None

    @property
    def message(self) -> str:
        """A sentence for an operator."""
        if self.last is None or self.age_s is None:
            return f"{self.device.name} has never sent a row"
        age, cadence = max(self.age_s, 0), self.device.cadence_s
        return f"{self.device.name}: last row {age:.0f} s ago, one is due every {cadence:g} s"

    def as_dict(self) -> dict[str, Any]:
        """Return plain data; the age in seconds, the time as RFC 3339 text in UTC."""
        last = rfc3339(self.last) if self.last else None
        return {
            **asdict(self.device),
            "state": self.state,
            "last": last,
            "age_s": self.age_s,
            "message": self.message,
        }


def by_site(found: Sequence[Freshness]) -> dict[str, dict[str, Any]]:
    """Return for each site how many devices are in which state, its newest row, and the oldest of these.

    ``newest`` is RFC 3339 text in UTC and ``oldest_age_s`` in seconds; both are None where no row was sent.
    """
    summary: dict[str, dict[str, Any]] = {}
    for site in dict.fromkeys(entry.device.site for entry in found):
        here = [entry for entry in found if entry.device.site == site]
        newest = max((entry.last for entry in here if entry.last), default=None)
        summary[site] = {
            "devices": len(here),
            **{state: sum(entry.state == state for entry in here) for state in STATES},
            "newest": rfc3339(newest) if newest else None,
            "oldest_age_s": max((entry.age_s for entry in here if entry.age_s is not None), default=None),
        }
    return summary


def judge(cadence_s: float, age_s: float | None, active_s: float, limits: Limits) -> str:
    """Return the state of a device from its age and how long it is in service, all in seconds.

    A device that has just been registered is given the time that a silent one has, before it is ``never``.
    """
    silent_after = limits.silent_cadences * cadence_s + limits.settle_s
    if age_s is None:
        return "never" if active_s > silent_after else "late"
    if age_s > silent_after:
        return "silent"
    return "late" if age_s > limits.late_cadences * cadence_s + limits.settle_s else "ok"


def ask(
    connection: Connection,
    *,
    sites: Sequence[str] | None = None,
    limits: Limits | None = None,
    schema: str = "flux",
    timeout_s: float = 15.0,
) -> list[Freshness]:
    """Return every device in service, by site and name. Raises TelemetryError, also when there is none."""
    from psycopg2 import sql

    limits = limits or Limits()
    if not 0 < limits.late_cadences <= limits.silent_cadences:
        raise TelemetryError("a device is late before it is silent: late_cadences <= silent_cadences")
    found: list[Freshness] = []
    with snapshot(connection, timeout_s=timeout_s) as cursor:
        check_tables(cursor, schema)
        check_sites(cursor, schema, sites)
        for kind, table in READINGS.items():
            query = sql.SQL(_QUERY).format(
                registry=sql.Identifier(schema, REGISTRY), readings=sql.Identifier(schema, table)
            )
            cursor.execute(query, {"type": kind, "sites": list(sites) if sites else None})
            for identifier, name, site, profile, cadence_s, last, age_s, active_s in cursor.fetchall():
                device = Device(identifier, name, site, kind, profile, cadence_s)
                found.append(Freshness(device, judge(cadence_s, age_s, active_s, limits), last, age_s))
    if not found:
        raise TelemetryError("the registry has no device in service now: there is nothing to be fresh")
    return sorted(found, key=lambda entry: (entry.device.site, entry.device.name))
