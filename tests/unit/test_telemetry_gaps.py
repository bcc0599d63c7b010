"""Gap detection on a real PostgreSQL, against an oracle that knows nothing of SQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from psycopg2.extensions import cursor as Cursor  # noqa: N812 (likewise)
from telemetry_database import add_device, add_rows, create_tables

from stationkeeper.telemetry.command import run as command
from stationkeeper.telemetry.gaps import Report, find_gaps
from stationkeeper.telemetry.presentation import describe, site_states
from stationkeeper.telemetry.source import TelemetryError, parse_time, reading

# A Sunday on which clocks in Rome go back: the local day has 25 hours.
BASE = datetime(2025, 10, 26, 0, 0, tzinfo=UTC)


@pytest.fixture
def connection(postgres_settings: dict[str, Any]) -> Iterator[Connection]:
    opened = create_tables(postgres_settings)
    yield opened
    opened.close()


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


def every(cadence_s: float, count: int, start: datetime = BASE) -> list[datetime]:
    return [start + seconds(cadence_s * number) for number in range(count)]


def spans(report: Report, name: str) -> list[tuple[datetime, datetime, int]]:
    (coverage,) = [entry for entry in report.devices if entry.device.name == name]
    return [(gap.start, gap.end, gap.missing) for gap in coverage.gaps]


def test_jitter_is_no_gap_and_a_hole_is_one(connection: Connection) -> None:
    device = add_device(connection, "A", cadence_s=10, active_from=BASE)
    times = [moment + seconds(number % 4) for number, moment in enumerate(every(10, 360))]
    add_rows(connection, device, times[:100] + times[112:])
    report = find_gaps(connection, BASE, BASE + seconds(3600))
    assert spans(report, "A") == [(times[99], times[112], 12)]
    (coverage,) = report.devices
    assert (coverage.state, coverage.expected, coverage.present, coverage.missing) == ("gaps", 360, 348, 12)


def test_silent_devices_are_found_and_counted_in_full(connection: Connection) -> None:
    add_device(connection, "A", cadence_s=60, active_from=BASE - timedelta(days=1))
    add_device(connection, "B", cadence_s=60, active_from=BASE + seconds(1800), kind="meter")
    report = find_gaps(connection, BASE, BASE + seconds(3600))
    assert [(c.device.name, c.state, c.expected, c.missing) for c in report.devices] == [
        ("A", "silent", 60, 60),
        ("B", "silent", 30, 30),
    ]
    assert all(coverage.gaps[0].open for coverage in report.devices)


def test_a_window_across_the_change_of_clocks_has_no_gap(connection: Connection) -> None:
    device = add_device(connection, "A", cadence_s=60, active_from=BASE - timedelta(days=1))
    rome = ZoneInfo("Europe/Rome")
    start, end = datetime(2025, 10, 26, tzinfo=rome), datetime(2025, 10, 27, tzinfo=rome)
    add_rows(connection, device, every(60, 25 * 60, start.astimezone(UTC)))
    report = find_gaps(connection, start, end)
    assert (report.gaps, report.devices[0].expected, report.devices[0].present) == (0, 1500, 1500)


def test_the_last_rows_have_time_to_arrive(connection: Connection) -> None:
    now = datetime.now(UTC)
    device = add_device(connection, "A", cadence_s=1, active_from=now - timedelta(hours=1))
    add_rows(connection, device, every(1, 3570, now - timedelta(hours=1)))
    start, end = now - timedelta(minutes=30), now + timedelta(minutes=5)
    assert find_gaps(connection, start, end, settle_s=60).gaps == 0
    report = find_gaps(connection, start, end, settle_s=0)
    assert report.gaps == 1
    assert report.settled_to < end
    assert report.devices[0].gaps[0].open


def test_sites_are_told_apart(connection: Connection) -> None:
    a = add_device(connection, "A", cadence_s=60, active_from=BASE, site="WLCE")
    add_device(connection, "B", cadence_s=60, active_from=BASE, site="HMCE")
    add_device(connection, "C", cadence_s=60, active_from=BASE, active_to=BASE + seconds(1), site="LFCE")
    add_rows(connection, a, every(60, 60))
    later = BASE + seconds(60)
    report = find_gaps(connection, later, BASE + seconds(3600), sites=["WLCE", "LFCE"])
    assert [coverage.device.name for coverage in report.devices] == ["A"]
    assert report.idle_sites == ("LFCE",)
    states = site_states(report, ["WLCE", "LFCE"])
    assert states["WLCE"] == {"state": "ok", "message": "1 devices complete, 59 rows", "devices": []}
    assert states["LFCE"]["state"] == "failed"
    everything = find_gaps(connection, BASE, BASE + seconds(3600))
    assert site_states(everything, [])["HMCE"]["message"] == "B: silent, all 60 rows missing"
    assert "B" in describe(everything)


def test_questions_that_cannot_be_answered_are_refused(connection: Connection) -> None:
    hour = BASE + seconds(3600)
    with pytest.raises(TelemetryError, match=r"registry flux\.mg_device_registry is empty"):
        find_gaps(connection, BASE, hour)
    add_device(connection, "A", cadence_s=60, active_from=BASE)
    with pytest.raises(TelemetryError, match="no device of site XXXX; sites are WLCE"):
        find_gaps(connection, BASE, hour, sites=["WLCE", "XXXX"])
    with pytest.raises(TelemetryError, match="has no offset from UTC"):
        find_gaps(connection, BASE.replace(tzinfo=None), hour)
    with pytest.raises(TelemetryError, match="is empty"):
        find_gaps(connection, hour, BASE)
    with pytest.raises(TelemetryError, match="settling time"):
        find_gaps(connection, datetime.now(UTC) - seconds(10), datetime.now(UTC))
    with pytest.raises(TelemetryError, match="must be above 1"):
        find_gaps(connection, BASE, hour, k=1)
    with pytest.raises(TelemetryError, match=r"column other\.mg_device_registry\.active_from is not there"):
        find_gaps(connection, BASE, hour, schema="other")


@pytest.mark.criterion("GR-10")
def test_columns_without_a_zone_are_refused(connection: Connection) -> None:
    add_device(connection, "A", cadence_s=60, active_from=BASE)
    with connection, connection.cursor() as cursor:
        cursor.execute("ALTER TABLE flux.mg_meter_readings ALTER COLUMN time TYPE timestamp")
    with pytest.raises(TelemetryError, match=r"mg_meter_readings\.time is of type timestamp without"):
        find_gaps(connection, BASE, BASE + seconds(3600))


def test_names_are_quoted_and_nothing_is_written(connection: Connection) -> None:
    with pytest.raises(TelemetryError, match="is not there"):
        find_gaps(connection, BASE, BASE + seconds(60), schema='flux"; DROP SCHEMA flux CASCADE; --')
    add_device(connection, "A", cadence_s=60, active_from=BASE)
    with pytest.raises(TelemetryError, match="no device of site"):
        find_gaps(connection, BASE, BASE + seconds(60), sites=["'; DROP SCHEMA flux CASCADE; --"])
    assert find_gaps(connection, BASE, BASE + seconds(60)).devices


def rows_read(connection: Connection, start: datetime, end: datetime) -> int:
    """Return how many rows of readings the database reads to find the gaps of a window."""
    asked: list[bytes] = []

    class Recorder(Cursor):
        def execute(self, query: Any, values: Any = None) -> None:
            super().execute(query, values)
            asked.append(self.query)

    connection.cursor_factory = Recorder
    find_gaps(connection, start, end)
    connection.cursor_factory = Cursor
    (bess,) = [query for query in asked if b"stretch" in query]
    with connection, connection.cursor() as cursor:
        cursor.execute(b"EXPLAIN (ANALYZE, FORMAT JSON) " + bess)
        (((plan,),),) = cursor.fetchall()
    return scanned(plan["Plan"])


def scanned(plan: dict[str, Any]) -> int:
    """Add up the rows that the scans of a plan have seen, those that a filter threw away too."""
    here = 0
    # A bitmap heap scan sees the rows of the index scan below it once more.
    of_readings = "readings" in plan.get("Relation Name", plan.get("Index Name", ""))
    if of_readings and plan["Node Type"] != "Bitmap Heap Scan":
        thrown = plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
        here = round((plan["Actual Rows"] + thrown) * plan["Actual Loops"])
    return here + sum(scanned(child) for child in plan.get("Plans", ()))


@pytest.mark.criterion("GR-3")
def test_every_row_of_a_window_is_read_once_and_no_other(connection: Connection) -> None:
    days = 6
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO flux.mg_device_registry (id, name, type, site, profile, cadence, active_from)"
            " SELECT gen_random_uuid(), 'd' || n, 'bess', 'S', 'p', '5 min', %s"
            " FROM generate_series(1, 20) n",
            (BASE,),
        )
        cursor.execute(
            "INSERT INTO flux.mg_bess_readings (device_id, time) SELECT id, t FROM flux.mg_device_registry,"
            " generate_series(%s, %s - interval '5 min', interval '5 min') t",
            (BASE, BASE + timedelta(days=days)),
        )
        cursor.execute("ANALYZE flux.mg_bess_readings")
    for length in (timedelta(hours=1), timedelta(days=1), timedelta(days=days)):
        rows = 20 * (length // timedelta(minutes=5))
        start = BASE + timedelta(days=days) - length
        # Beside them only the one before the window.
        assert rows <= rows_read(connection, start, BASE + timedelta(days=days)) <= rows + 20


def test_two_hundred_devices_for_a_day(connection: Connection) -> None:
    start = BASE - timedelta(days=1)
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO flux.mg_device_registry (id, name, type, site, profile, cadence, active_from)"
            " SELECT gen_random_uuid(), 'd' || n, 'bess', 'S' || n %% 20, 'p', '5 min', %s"
            " FROM generate_series(1, 200) n",
            (start,),
        )
        cursor.execute(
            "INSERT INTO flux.mg_bess_readings (device_id, time) SELECT id, t FROM flux.mg_device_registry,"
            " generate_series(%s, %s - interval '5 min', interval '5 min') t",
            (start, BASE),
        )
        cursor.execute("ANALYZE flux.mg_bess_readings")
    report = find_gaps(connection, start, BASE)
    assert (report.gaps, len(report.devices)) == (0, 200)


@pytest.mark.criterion("GR-10")
@pytest.mark.parametrize("text", ["2026-01-31T12:00:00", "2026-01-31 12:00", "2026-01-31", "yesterday", ""])
def test_times_without_an_offset_are_refused(text: str) -> None:
    with pytest.raises(TelemetryError):
        parse_time(text)


def test_times_with_an_offset_are_one_moment() -> None:
    moment = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert parse_time("2026-01-31T12:00:00Z") == parse_time("2026-01-31T13:00:00+01:00") == moment


def database_file(folder: Path, settings: dict[str, Any]) -> str:
    path = folder / "database.json"
    path.write_text(json.dumps(settings))
    path.chmod(0o600)
    return str(path)


def test_the_command_lists_gaps_and_fails(
    connection: Connection,
    postgres_settings: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    device = add_device(connection, "WLCE-BESS-01", cadence_s=60, active_from=BASE)
    add_rows(connection, device, [*every(60, 30), *every(60, 20, BASE + seconds(2400))])
    file = database_file(tmp_path, postgres_settings)
    window = ["--from", "2025-10-26T00:00:00Z", "--database-file", file]
    assert command([*window, "--to", "2025-10-26T01:00:00+00:00"]) == 1
    out = capsys.readouterr().out
    assert "2025-10-26 00:29:00 to 2025-10-26 00:40:00  about 10 missing" in out
    assert command([*window, "--to", "2025-10-26T01:00:00Z", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["devices"][0]["gaps"] == [
        {"from": "2025-10-26T00:29:00Z", "to": "2025-10-26T00:40:00Z", "missing": 10, "open": False}
    ]
    assert command([*window, "--to", "2025-10-26T00:20:00Z"]) == 0
    assert command([*window, "--to", "2025-10-26 01:00:00"]) == 2
    assert "has no offset from UTC" in capsys.readouterr().err


def test_a_database_that_is_down_is_said_plainly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    down = {"hosts": ["127.0.0.1"], "port": 9, "name": "flux", "user": "u", "password": "geheim123"}
    file = database_file(tmp_path, down)
    window = ["--from", "2025-10-26T00:00:00Z", "--to", "2025-10-26T01:00:00Z"]
    assert command([*window, "--database-file", file]) == 2
    error = capsys.readouterr().err
    assert "the database cannot be reached" in error
    assert "geheim123" not in error
    with pytest.raises(TelemetryError, match="'hosts' must be a list"), reading({"hosts": []}):
        pass
