"""Maintenance windows: time zones, clock changes, midnight and the end of the week."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stationkeeper.controller.windows import DAYS, Window, first_instant, open_span, zone_of

MINUTE = timedelta(minutes=1)


def window(text: str, zone: str) -> Window:
    """Return the window in text such as `saturday sunday 02:00-04:00`."""
    *days, times = text.split()
    start, end = (time.fromisoformat(part) for part in times.split("-"))
    return Window("w", frozenset(DAYS.index(day) for day in days), start, end, zone_of(zone))


def openings(one: Window, first: str, hours: int) -> list[str]:
    """Walk minute by minute from a moment in UTC and return each opening as `start/end`, day and time."""
    now = datetime.fromisoformat(first).replace(tzinfo=UTC)
    found: list[str] = []
    began: datetime | None = None
    for _ in range(hours * 60):
        seen = open_span([one], now)
        if seen and not began:
            began = now
        if began and not seen:
            found.append(f"{began:%d %H:%M}/{now:%d %H:%M}")
            began = None
        now += MINUTE
    return found


ROME, NEW_YORK, LORD_HOWE = "Europe/Rome", "America/New_York", "Australia/Lord_Howe"


@pytest.mark.criterion("MT-1")
@pytest.mark.parametrize(
    ("zone", "text", "first", "expected"),
    [
        # The European clock change skips or repeats 02:00 to 03:00.
        (ROME, "sunday 02:00-04:00", "2026-03-28T20:00", ["29 01:00/29 02:00"]),
        (ROME, "sunday 02:00-04:00", "2026-10-24T20:00", ["25 00:00/25 03:00"]),
        (ROME, "sunday 02:00-04:00", "2026-06-06T20:00", ["07 00:00/07 02:00"]),
        # A start that the clock skips is the first valid instant; an end likewise.
        (ROME, "sunday 02:30-05:00", "2026-03-28T20:00", ["29 01:00/29 03:00"]),
        (ROME, "sunday 01:00-02:30", "2026-03-28T20:00", ["29 00:00/29 01:00"]),
        # Wholly skipped: it does not take place. Within the repeated hour: once.
        (ROME, "sunday 02:10-02:50", "2026-03-28T20:00", []),
        (ROME, "sunday 02:10-02:50", "2026-10-24T20:00", ["25 00:10/25 00:50"]),
        (ROME, "sunday 01:00-02:30", "2026-10-24T20:00", ["24 23:00/25 00:30"]),
        (NEW_YORK, "sunday 02:00-04:00", "2026-03-08T00:00", ["08 07:00/08 08:00"]),
        (NEW_YORK, "sunday 01:00-03:00", "2026-11-01T00:00", ["01 05:00/01 08:00"]),
        (NEW_YORK, "sunday 01:15-01:45", "2026-11-01T00:00", ["01 05:15/01 05:45"]),
        # Lord Howe jumps by half an hour: 02:00 to 02:30 in October, 02:00 back to 01:30 in April.
        (LORD_HOWE, "sunday 02:15-04:00", "2026-10-03T10:00", ["03 15:30/03 17:00"]),
        (LORD_HOWE, "sunday 01:45-03:00", "2026-04-04T10:00", ["04 14:45/04 16:30"]),
        ("UTC", "sunday 02:00-04:00", "2026-03-28T20:00", ["29 02:00/29 04:00"]),
    ],
)
def test_clock_changes(zone: str, text: str, first: str, expected: list[str]) -> None:
    assert openings(window(text, zone), first, 12) == expected


@pytest.mark.criterion("MT-2")
@pytest.mark.parametrize(
    ("text", "first", "expected"),
    [
        ("monday 23:00-01:00", "2026-06-01T00:00", ["01 23:00/02 01:00"]),
        # Over the end of the week, and it belongs to the Sunday on which it begins.
        ("sunday 22:00-02:00", "2026-06-06T00:00", ["07 22:00/08 02:00"]),
        ("tuesday wednesday 12:00-13:00", "2026-06-02T00:00", ["02 12:00/02 13:00", "03 12:00/03 13:00"]),
        ("friday 00:00-00:00", "2026-06-04T00:00", ["05 00:00/06 00:00"]),
    ],
)
def test_midnight_and_the_end_of_the_week(text: str, first: str, expected: list[str]) -> None:
    assert openings(window(text, "UTC"), first, 72) == expected


@pytest.mark.criterion("MT-1")
@given(
    st.sampled_from(["Europe/Rome", "America/New_York", "Australia/Lord_Howe", "UTC", "Pacific/Apia"]),
    st.dates(date(2000, 1, 1), date(2037, 12, 31)),
    st.times().map(lambda at: at.replace(second=0, microsecond=0)),
)
def test_no_local_time_is_lost(zone: str, day: date, at: time) -> None:
    tz = zone_of(zone)
    instant = first_instant(day, at, tz)
    shown = instant.astimezone(tz).replace(tzinfo=None)
    asked = datetime.combine(day, at)
    just_before = (instant - timedelta(seconds=1)).astimezone(tz).replace(tzinfo=None)
    # Either the clock shows it, or it jumps over it at this very second.
    assert shown == asked or just_before < asked < shown


def test_of_several_windows_the_one_that_ends_last_counts() -> None:
    one, other = window("monday 10:00-11:00", "UTC"), window("monday 10:30-12:00", "UTC")
    seen = open_span([one, other], datetime(2026, 6, 1, 10, 45, tzinfo=UTC))
    assert seen is not None
    assert seen.end == datetime(2026, 6, 1, 12, tzinfo=UTC)
    assert open_span([], datetime(2026, 6, 1, 10, 45, tzinfo=UTC)) is None


def test_an_unknown_zone_names_the_remedy() -> None:
    for name in ("Europe/Roma", "", "../etc/passwd"):
        with pytest.raises(ValueError, match="install Debian's package tzdata"):
            zone_of(name)
    assert zone_of("Europe/Rome") == ZoneInfo("Europe/Rome")
