"""The picture of the coverage: its numbers, its cells, and a page that stands alone."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from telemetry_database import add_device, add_rows, create_tables

from stationkeeper.database.statements import split
from stationkeeper.telemetry.command import run
from stationkeeper.telemetry.explanations import Explanation, Gap
from stationkeeper.telemetry.gaps import find_gaps
from stationkeeper.telemetry.ledger import totals_of
from stationkeeper.telemetry.picture import COLOURS, draw
from stationkeeper.telemetry.picture_model import Counts, Model, Span, build, fetch_recovered
from stationkeeper.telemetry.report import Coverage, Report
from stationkeeper.telemetry.source import Device

START = datetime(2026, 1, 5, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ROOT = Path(__file__).resolve().parents[2]


def coverage(name: str, *gaps: Gap, site: str = "WLCE", hours: float = 24, **times: datetime) -> Coverage:
    """A device of one row a minute with these gaps; those with an explanation count as explained."""
    start, end = times.get("start", START), times.get("end", START + timedelta(hours=hours))
    expected = (end - start) // MINUTE
    present = expected - sum(gap.missing for gap in gaps)
    opened = tuple(gap for gap in gaps if gap.explanation is None)
    explained = tuple(gap for gap in gaps if gap.explanation is not None)
    device = Device(name, name, site, "bess", "generic_battery", 60)
    return Coverage(device, start, end, expected, present, opened, explained)


def gap(first: int, missing: int, why: str = "") -> Gap:
    """A gap that begins after the row of minute ``first``."""
    start, end = START + first * MINUTE, START + (first + missing + 1) * MINUTE
    explanation = Explanation("maintenance", start, end, why) if why else None
    return Gap(start, end, missing, False, explanation)


def picture(*devices: Coverage, hours: float = 24, recovered: dict[str, list[Span]] | None = None) -> Model:
    end = START + timedelta(hours=hours)
    return build(Report(START, end, end, 1.5, devices), end, recovered)


class Page(HTMLParser):
    """Collects tags, attributes and text; a tag that is not closed is an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "br"}:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


@given(st.integers(0, 500), st.integers(1, 10_000), st.lists(st.integers(-100, 12_000), max_size=20))
def test_the_rows_of_a_span_are_in_exactly_one_piece(rows: int, length: int, cuts: list[int]) -> None:
    span = Span(START, START + length * MINUTE, rows)
    edges = [START - 200 * MINUTE, *sorted(START + cut * MINUTE for cut in cuts), START + 20_000 * MINUTE]
    pieces = [span.rows_in(first, last) for first, last in pairwise(edges)]
    assert min(pieces) >= 0
    assert sum(pieces) == rows


def test_the_rows_of_a_gap_are_in_the_buckets_in_which_they_were_due() -> None:
    # Rows 61 to 75 are missing: 9 of the bucket from minute 60 (it has row 60), 6 of the next.
    model = picture(coverage("A", gap(60, 15)))
    assert model.step == 10 * MINUTE
    (line,) = model.devices
    assert {number: cell.open for number, cell in enumerate(line.cells) if cell.open} == {6: 9, 7: 6}
    assert all(cell.due == 10 for cell in line.cells)


def test_the_states_add_up_to_what_was_expected() -> None:
    spans = {"A": [Span(START + 200 * MINUTE, START + 231 * MINUTE, 30)]}
    model = picture(
        coverage("A", gap(60, 15), gap(300, 100, "new fan")), coverage("B", site="HMCE"), recovered=spans
    )
    assert model.counts == Counts(present=2880 - 145, recovered=30, explained=100, open=15)
    assert model.counts.expected == 2880
    for line in model.devices:
        assert sum(cell.open for cell in line.cells) == line.counts.open
        assert sum(cell.explained for cell in line.cells) == line.counts.explained
        assert sum(cell.recovered for cell in line.cells) == line.counts.recovered
    assert model.reasons == (("new fan", 100),)
    text = " ".join(Page(draw(model)).words)
    assert "2,880 rows expected = 2,735 present + 30 recovered + 100 explained + 15 open" in text


def test_a_batch_that_reaches_out_of_the_window_counts_only_inside() -> None:
    before = {"A": [Span(START - 60 * MINUTE, START + 60 * MINUTE, 119)]}
    assert picture(coverage("A"), recovered=before).counts.recovered == 60


def test_the_worst_stand_on_top() -> None:
    devices = [
        coverage("A", site="ONE"),
        coverage("B", gap(60, 5, "why"), site="ONE"),
        coverage("C", gap(60, 1), site="TWO"),
        coverage("D", gap(60, 9), gap(300, 3), site="THREE"),
    ]
    model = picture(*devices)
    assert [line.name for line in model.devices] == ["D", "C", "B", "A"]
    assert [line.name for line in model.sites] == ["THREE", "TWO", "ONE"]
    assert [gap.rows for gap in model.gaps] == [9, 3, 1]


def test_out_of_service_is_not_drawn_as_missing() -> None:
    model = picture(coverage("A", start=START + timedelta(hours=12)))
    (line,) = model.devices
    assert [cell.due > 0 for cell in line.cells] == [False] * 72 + [True] * 72
    assert model.counts == Counts(present=720)
    strip = re.search(r'<path stroke="#7b8794"[^>]*d="M190.0 [\d.]+H610.0"', draw(model))
    assert strip


@pytest.mark.parametrize(
    ("hours", "cadence_s", "step"),
    [
        (1, 60, 5),
        (24, 60, 10),
        (24, 3600, 60),
        (24 * 7, 60, 60),
        (24 * 30, 60, 360),
        (24 * 1000, 60, 1440 * 6),
    ],
)
def test_a_column_fits_the_window_and_the_slowest_device(hours: float, cadence_s: float, step: int) -> None:
    end = START + timedelta(hours=hours)
    device = Device("A", "A", "S", "bess", "p", cadence_s)
    model = build(Report(START, end, end, 1.5, (Coverage(device, START, end, 1, 1, ()),)), end)
    assert model.step == step * MINUTE
    assert len(model.devices[0].cells) <= 169
    draw(model)


def test_a_window_may_begin_and_end_anywhere() -> None:
    start, end = START + 7 * MINUTE, START + timedelta(hours=25, minutes=13)
    device = coverage("A", start=start, end=end)
    model = build(Report(start, end, end, 1.5, (device,)), end)
    assert model.first_bucket == START
    cells = model.devices[0].cells
    assert (cells[0].due, cells[1].due, cells[-1].due) == (3, 10, 3)
    assert sum(cell.due for cell in cells) == (end - start) // MINUTE


def test_a_cell_shows_one_missing_row_and_the_worst_state_lowest() -> None:
    html = draw(picture(coverage("A", gap(60, 1), gap(70, 2, "why"))))
    strip = html[html.index("<h2>WLCE") :]
    # Ten minutes are 5.8 pixels wide; a strip is 15 high, a third of it 5.
    assert f'<path fill="{COLOURS["open"]}" d="M225.0 10h5.8v5h-5.8z"/>' in strip
    assert f'<path fill="{COLOURS["explained"]}" d="M230.8 10h5.8v5h-5.8z"/>' in strip
    whole = draw(picture(coverage("A", gap(59, 10))))
    assert f'<path fill="{COLOURS["open"]}" d="M225.0 0h5.8v15h-5.8z"/>' in whole


def test_the_page_stands_alone() -> None:
    html = draw(picture(coverage("<b>&", gap(60, 1), site="<script>"), coverage("B")))
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "img", "iframe", "b>"}
    assert not [name for _, attributes in page.tags for name in attributes if name in {"src", "href"}]
    assert "url(" not in html
    assert "http://" not in html
    assert "https://" not in html
    assert html == draw(picture(coverage("<b>&", gap(60, 1), site="<script>"), coverage("B")))


def test_a_large_fleet_names_its_worst_and_stays_small() -> None:
    devices = [
        coverage(f"D{number:03d}", *([gap(60, number)] if number % 7 == 1 else []), site=f"S{number // 20}")
        for number in range(1000)
    ]
    html = draw(picture(*devices))
    text = Page(html).words
    assert "The 40 worst devices" in text
    assert text.count("D995") >= 2
    # Each device keeps its strip, and its name for the pointer.
    assert all(f"D{number:03d}: " in html for number in range(1000))
    assert len(html) < 600_000


def test_a_fleet_without_a_gap_says_so() -> None:
    html = draw(picture(coverage("A")))
    assert "No open gap" in html
    assert "100.00 %" in html
    assert "100.00 %" not in draw(picture(coverage("A", gap(60, 1))))
    assert "99.93 %" in draw(picture(coverage("A", gap(60, 1))))


def test_sites_without_a_device_are_named() -> None:
    end = START + timedelta(hours=1)
    html = draw(build(Report(START, end, end, 1.5, (), ("LFCE",)), end))
    assert "No device was in service at LFCE" in html
    assert "0 rows expected" in html
    Page(html)


def lightness(colour: str) -> float:
    """CIE L* of ``#rrggbb``."""
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return 116 * luminance ** (1 / 3) - 16


def test_the_colours_can_be_told_apart_without_hue() -> None:
    steps = [lightness(colour) for colour in ("#ffffff", *COLOURS.values())]
    assert steps == sorted(steps, reverse=True)
    assert min(light - dark for light, dark in pairwise(steps)) > 8
    # What matters most is far from everything else.
    assert steps[-2] - steps[-1] > 30


def test_the_command_draws_what_the_database_has(
    postgres_settings: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    connection = create_tables(postgres_settings)
    identifier = add_device(connection, "WLCE-BESS-01", cadence_s=60, active_from=START)
    add_rows(connection, identifier, [START + n * MINUTE for n in range(120) if n not in range(30, 42)])
    settings, file = tmp_path / "database.json", tmp_path / "coverage.html"
    settings.write_text(json.dumps(postgres_settings))
    settings.chmod(0o600)
    asked = [
        "--from",
        "2026-01-05T00:00:00Z",
        "--to",
        "2026-01-05T02:00:00Z",
        "--database-file",
        str(settings),
    ]
    # A database that knows no back-fill yet.
    assert run([*asked, "--html", str(file)]) == 1
    assert "120 rows expected = 108 present + 0 recovered + 0 explained + 12 open" in file.read_text()

    ledger = (ROOT / "migrations/flux/0007_gap_ledger.sql").read_text()
    with connection, connection.cursor() as cursor:
        for statement in split(ledger):
            if not statement.text.startswith("GRANT"):
                cursor.execute(statement.text)
        cursor.execute(
            "INSERT INTO flux.mg_backfill_batch (id, device_id, span, source, rows_in, rows_new, hash) VALUES"
            " (gen_random_uuid(), %s, '(2026-01-05 00:09Z, 2026-01-05 00:20Z)', 'archive', 10, 10, '')",
            (identifier,),
        )
    assert run([*asked, "--html", str(file)]) == 1
    assert "120 rows expected = 98 present + 10 recovered + 0 explained + 12 open" in file.read_text()
    for start in (START, START + 15 * MINUTE, START + 25 * MINUTE):
        report = find_gaps(connection, start, START + 120 * MINUTE, settle_s=0)
        drawn = build(report, START, fetch_recovered(connection, report)).counts
        proven = totals_of(connection, report)
        assert drawn.expected == proven.expected
        assert {state: drawn.of(state) for state in COLOURS} == {state: proven.of(state) for state in COLOURS}
    capsys.readouterr()
    assert run([*asked, "--html", str(tmp_path / "none" / "x.html")]) == 2
    assert "the picture cannot be written" in capsys.readouterr().err
