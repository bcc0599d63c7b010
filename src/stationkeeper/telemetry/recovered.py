"""Rows that a back-fill brought: the ledger's totals and the picture count them alike."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from stationkeeper.telemetry.report import Report
from stationkeeper.telemetry.source import BATCHES, READINGS

if TYPE_CHECKING:
    from psycopg2.extensions import cursor as Cursor  # noqa: N812 (psycopg2 names the class so)

# A batch never counts more rows than are there now.
_RECOVERED = """
SELECT * FROM (
    SELECT b.device_id::text, greatest(lower(b.span), %(start)s), least(upper(b.span), %(end)s),
           least(b.rows_new, (SELECT count(*) FROM {readings} x WHERE x.device_id = b.device_id
               AND x.time <@ b.span AND x.time >= %(start)s AND x.time < %(end)s)) AS rows
    FROM {batches} b
    WHERE b.device_id = ANY (%(devices)s::uuid[]) AND b.rows_new > 0
      AND b.span && tstzrange(%(start)s, %(end)s)) AS batch
WHERE rows > 0
"""


def recovered_rows(
    cursor: Cursor, report: Report, *, schema: str
) -> dict[str, list[tuple[datetime, datetime, int]]]:
    """Return by device id the start, end and rows of each batch that is in the report's window."""
    from psycopg2 import sql

    found: dict[str, list[tuple[datetime, datetime, int]]] = {}
    for kind, readings in READINGS.items():
        query = sql.SQL(_RECOVERED).format(
            batches=sql.Identifier(schema, BATCHES), readings=sql.Identifier(schema, readings)
        )
        devices = [coverage.device.id for coverage in report.devices if coverage.device.type == kind]
        cursor.execute(query, {"devices": devices, "start": report.start, "end": report.settled_to})
        for device, start, end, rows in cursor.fetchall():
            found.setdefault(device, []).append((start, end, rows))
    return found
