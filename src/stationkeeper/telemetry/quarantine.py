"""Rows that cannot be true, copied to where somebody decides about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stationkeeper.telemetry.source import QUARANTINE, TelemetryError, changing, has_table, snapshot
from stationkeeper.telemetry.validation import Finding

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)


def quarantine(
    connection: Connection, findings: Sequence[Finding], *, schema: str = "flux", check: bool = False
) -> int:
    """Copy the rows of findings to the quarantine; return how many are new there. They stay where they are.

    A row that is there already, resolved or not, is not copied again. With ``check`` nothing is written.
    Raises TelemetryError.
    """
    from psycopg2 import sql
    from psycopg2.extras import Json, execute_values

    rows = [one for one in findings if one.row is not None]
    with (snapshot if check else changing)(connection, timeout_s=60.0) as cursor:
        if not has_table(cursor, schema, QUARANTINE):
            raise TelemetryError(f"{schema}.{QUARANTINE} does not exist: run the migrations first")
        table = sql.Identifier(schema, QUARANTINE)
        keys = [(one.device_id, one.start, one.kind) for one in rows]
        if not keys:
            return 0
        cursor.execute(
            sql.SQL(
                "SELECT count(*) FROM {} q JOIN unnest(%s::uuid[], %s::timestamptz[], %s::text[])"
                " AS k (id, time, kind) ON (q.device_id, q.time, q.kind) = (k.id, k.time, k.kind)"
            ).format(table),
            [list(column) for column in zip(*keys, strict=True)],
        )
        (known,) = cursor.fetchone() or (0,)
        if not check:
            query = sql.SQL(
                "INSERT INTO {} (device_id, time, kind, row, reason) VALUES %s"
                " ON CONFLICT (device_id, time, kind) DO NOTHING"
            ).format(table)
            values = [(*key, Json(one.row), one.reason) for key, one in zip(keys, rows, strict=True)]
            execute_values(cursor, query, values)
    return len(rows) - int(known)
