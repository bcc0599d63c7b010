"""Which readings a damaged page may have had.

Standard library only (psycopg2 comes in with the connection): Ansible ships this file to the database host.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

_COLUMNS = """
SELECT count(*) FROM pg_attribute WHERE attrelid = %s AND NOT attisdropped
AND (attname, atttypid::regtype::text) IN (('time', 'timestamp with time zone'), ('device_id', 'uuid'))
"""


def around(
    connection: Connection, oid: int, name: str, block: int
) -> tuple[datetime | None, datetime | None, tuple[str, ...]]:
    """Return the span and the devices of the readable blocks around a damaged one of a table of readings.

    Rows come in about the order of their time, so those of the block lie between its neighbours'. On a side
    without a readable one the span is a day longer, as long as a chunk.
    """
    import psycopg2

    with connection.cursor() as cursor:
        cursor.execute(_COLUMNS, (oid,))
        if cursor.fetchone() != (2,):
            return None, None, ()
    times: list[datetime] = []
    lengthen = {-1: timedelta(days=-1), 1: timedelta(days=1)}
    devices: set[str] = set()
    for step in (-1, 1):
        for near in range(block + step, block + 4 * step, step):
            if near < 0:
                break
            try:
                with connection.cursor() as cursor:
                    cursor.execute(
                        f"SELECT time, device_id::text FROM {name}"  # noqa: S608 (regclass quotes it)
                        f" WHERE ctid >= '({near},0)'::tid AND ctid < '({near + 1},0)'::tid"
                    )
                    rows = cursor.fetchall()
            except psycopg2.Error:
                continue  # Damaged as well: the next one tells.
            if rows:
                times += [moment for moment, _ in rows]
                devices |= {device for _, device in rows}
                del lengthen[step]
                break
    if not times:
        return None, None, ()
    since = min(times) + lengthen.get(-1, timedelta())
    return since, max(times) + lengthen.get(1, timedelta()), tuple(sorted(devices))
