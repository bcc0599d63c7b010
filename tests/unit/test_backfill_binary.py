"""The binary COPY format, byte for byte as PostgreSQL writes it."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from stationkeeper.database.connection import connect
from stationkeeper.telemetry.backfill.binary import MICROSECONDS, write_rows
from stationkeeper.telemetry.source import TelemetryError

COLUMNS = {
    "time": "timestamp with time zone",
    "device_id": "uuid",
    "seq": "bigint",
    "status": "integer",
    "power_kw": "double precision",
    "quality": "text",
}
ID = UUID("01234567-89ab-cdef-0123-456789abcdef")
ROWS: list[tuple[Any, ...]] = [
    (datetime(2026, 1, 5, 0, 0, 0, 11000, tzinfo=UTC), ID, 1, -1, 0.1, "synchronised"),
    (datetime(1999, 12, 31, 23, 0, tzinfo=timezone(timedelta(hours=1))), ID, -(2**63), 2**31 - 1, -0.0, ""),
    (datetime(2100, 2, 28, tzinfo=UTC), ID, 2**63 - 1, -(2**31), 5e-324, 'µ "quoted", 日本\t\n'),
    (datetime(2000, 1, 1, tzinfo=UTC), ID, None, None, float("inf"), None),
]


def encoded(columns: dict[str, str], rows: list[tuple[Any, ...]]) -> bytes:
    out = io.BytesIO()
    assert write_rows(out, columns, rows) == len(rows)
    return out.getvalue()


def test_one_row_as_bytes() -> None:
    row = (datetime(2000, 1, 1, 0, 0, 1, tzinfo=UTC), ID, 2, 3, 1.5, "µ")
    expected = (
        "5047434f50590aff0d0a00 00000000 00000000"
        "0006 00000008 00000000000f4240 00000010 0123456789abcdef0123456789abcdef"
        "00000008 0000000000000002 00000004 00000003 00000008 3ff8000000000000 00000002 c2b5 ffff"
    )
    assert encoded(COLUMNS, [row]) == bytes.fromhex(expected.replace(" ", ""))


def test_postgresql_reads_it_and_writes_the_same_bytes(postgres_settings: dict[str, Any]) -> None:
    data = encoded(COLUMNS, ROWS)
    with connect(postgres_settings) as connection, connection.cursor() as cursor:
        columns = ", ".join(f"{name} {type_}" for name, type_ in COLUMNS.items())
        cursor.execute(f"CREATE TABLE golden ({columns})")
        cursor.copy_expert("COPY golden FROM STDIN (FORMAT binary)", io.BytesIO(data))
        again = io.BytesIO()
        cursor.copy_expert("COPY golden TO STDOUT (FORMAT binary)", again)
        assert again.getvalue() == data
        cursor.execute("SELECT * FROM golden")
        stored = cursor.fetchall()
    connection.close()
    assert [(*row[:1], UUID(row[1]), *row[2:]) for row in stored] == ROWS


def test_times_may_be_microseconds_since_1970() -> None:
    moment = datetime(2026, 1, 5, 12, 30, 0, 1, tzinfo=UTC)
    number = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert encoded({"time": MICROSECONDS}, [(number,)]) == encoded(
        {"time": "timestamp with time zone"}, [(moment,)]
    )


def test_many_rows_are_written_in_pieces_that_make_the_same_stream() -> None:
    rows = [(number, str(number)) for number in range(2500)]
    columns = {"seq": "bigint", "text": "text"}
    single = b"".join(encoded(columns, [row])[19:-2] for row in rows)
    assert encoded(columns, rows)[19:-2] == single


@pytest.mark.criterion("GR-10")
def test_a_time_without_an_offset_is_refused() -> None:
    naive = datetime(2026, 1, 5)  # noqa: DTZ001 (that is the point)
    with pytest.raises(
        TelemetryError, match=r"row 2, column time: .*2026-01-05T00:00:00 has no offset from UTC"
    ):
        encoded({"time": COLUMNS["time"]}, [ROWS[0][:1], (naive,)])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("time", "2026-01-05T00:00:00Z"),
        ("device_id", "no uuid"),
        ("device_id", 5),
        ("seq", 2**63),
        ("seq", 1.0),
        ("seq", True),
        ("status", 2**31),
        ("status", "1"),
        ("power_kw", "1.5"),
        ("power_kw", True),
        ("quality", b"bytes"),
        ("quality", "zero\0byte"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_column(column: str, value: Any) -> None:
    row = dict(zip(COLUMNS, ROWS[0], strict=True)) | {column: value}
    with pytest.raises(TelemetryError, match=f"row 1, column {column}: .* is no {COLUMNS[column]}"):
        encoded(COLUMNS, [tuple(row.values())])


def test_a_row_of_another_length_is_refused() -> None:
    with pytest.raises(TelemetryError, match="row 1 has 2 values instead of 6"):
        encoded(COLUMNS, [ROWS[0][:2]])
