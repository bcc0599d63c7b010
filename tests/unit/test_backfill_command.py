"""``stationkeeper backfill`` from the shell, its progress, and its brakes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from backfill_world import START, World, make_world
from postgres_cluster import PostgresCluster

from stationkeeper import cli
from stationkeeper.database.connection import connect
from stationkeeper.telemetry.backfill.pacing import Throttle, replication_lag
from stationkeeper.telemetry.backfill.progress import Lines
from stationkeeper.telemetry.source import TelemetryError

WINDOW = ["--from", "2026-01-05T00:00:00Z", "--to", "2026-01-05T10:00:00Z"]


@pytest.fixture
def world(postgres_cluster: PostgresCluster) -> Iterator[World]:
    for one in make_world(postgres_cluster):
        device = one.device("A", cadence_s=60)
        one.rows(one.source, device, count=600, cadence_s=60)
        one.rows(one.target, device, count=200, cadence_s=60)
        yield one


def settings_file(path: Path, settings: dict[str, Any]) -> str:
    path.write_text(json.dumps(settings))
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def command(world: World, tmp_path: Path) -> list[str]:
    """The command line that recovers from the second database."""
    target = settings_file(tmp_path / "target.json", world.target | {"user": "flux_operator"})
    source = settings_file(tmp_path / "source.json", world.source | {"user": "flux_reader"})
    return ["backfill", "--database-file", target, "--source", f"second=postgresql:{source}"]


def test_it_checks_recovers_and_is_done(
    world: World, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*command, *WINDOW, "--check"]) == 0
    shown = capsys.readouterr().out
    assert (
        "A  2026-01-05T03:19:00.033000Z to 2026-01-05T10:00:00Z  about 400 rows missing; second 400" in shown
    )
    assert "1 gaps, about 400 rows, 400 to be had" in shown
    assert world.checksum(world.target)[0] == 200
    assert cli.main([*command, *WINDOW]) == 0
    shown = capsys.readouterr().out
    assert "400 rows recovered in 1 batches (400 offered), 0 conflicts" in shown
    assert "expected 600, present 200, recovered 400, explained 0, open 0, nominal 600" in shown
    assert world.checksum(world.target) == world.checksum(world.source)
    assert cli.main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["rows_in"], result["entries"], result["totals"]) == (0, {}, None)


def test_a_gap_left_open_is_a_failing_exit_code_until_it_is_given_up(
    world: World, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    world.on(world.source, "DELETE FROM flux.mg_bess_readings WHERE seq > 150")
    assert cli.main([*command, *WINDOW]) == 1
    assert "gaps: 1 open" in capsys.readouterr().out
    assert cli.main([*command, "--give-up", "the logger was off"]) == 0
    assert "gaps: 1 unrecoverable" in capsys.readouterr().out


def test_an_archive_is_written_verified_and_used(
    world: World, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["--database-file", str(tmp_path / "source.json")]
    directory = ["--directory", str(tmp_path / "archive")]
    assert cli.main(["backfill", "export", *source, *WINDOW, *directory, "--check"]) == 0
    assert "600 rows of 1 devices in 1 files would be written" in capsys.readouterr().out
    assert not (tmp_path / "archive").exists()
    assert cli.main(["backfill", "export", *source, *WINDOW, *directory]) == 0
    assert cli.main(["backfill", "verify", *source, *directory]) == 0
    assert "600 rows came back as they were archived" in capsys.readouterr().out
    used = ["--source", f"cold=archive:{tmp_path / 'archive'}"]
    assert cli.main([*command[:3], *used, *WINDOW]) == 0
    assert world.checksum(world.target) == world.checksum(world.source)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--source", "second"], "write NAME=KIND:WHERE"),
        (["--source", "second=csv:there"], "KIND one of postgresql, archive, bigquery"),
        (["--source", "second=archive:/nowhere"], "two sources have the same name"),
        (["--from", "2026-01-05T00:00:00Z"], "a window has both --from and --to"),
        (["--from", "2026-01-05T00:00:00", "--to", "2026-01-06T00:00:00Z"], "has no offset from UTC"),
        (["--rows-per-s", "0"], "0 rows a second is no speed"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_touched(
    world: World, command: list[str], capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    assert cli.main([*command, *more]) == 2
    assert message in capsys.readouterr().err
    assert world.states() == []


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal() -> None:
    stream = Terminal()
    progress = Lines(stream)
    progress.expect(400)
    progress.done(100, "A from second")
    progress.done(300, "B from second")
    progress.end()
    shown = stream.getvalue().split("\r")
    assert shown[1] == "\x1b[K[#######.......................]  25% 100 rows A from second"
    assert shown[2] == f"\x1b[K[{'#' * 30}] 100% 400 rows B from second\n"


def test_progress_is_a_line_now_and_then_elsewhere() -> None:
    now = 0.0
    stream = io.StringIO()
    progress = Lines(stream, clock=lambda: now)
    progress.expect(400)
    for step in range(1, 5):
        now = step * 6.0
        progress.done(100, "A")
    progress.end()
    assert stream.getvalue() == "200 of about 400 rows, A\n400 of about 400 rows, A\n"


def test_a_throttle_does_not_save_idle_time_up() -> None:
    now, waits = 0.0, []
    throttle = Throttle(100, clock=lambda: now, sleep=waits.append)
    throttle.spend(100)
    now = 1000.0
    throttle.spend(300)
    assert waits == [1.0, 2.0]


def test_a_slow_recovery_takes_slices_that_fit_its_lease() -> None:
    assert Throttle(None).rows_within(75, at_most=50_000) == 50_000
    assert Throttle(100).rows_within(75, at_most=50_000) == 7500
    assert Throttle(0.001).rows_within(75, at_most=50_000) == 1


def test_no_replica_is_no_lag(world: World) -> None:
    with (
        closing(connect(world.target | {"user": "flux_operator"})) as connection,
        connection.cursor() as cursor,
    ):
        assert replication_lag(cursor) == 0


def test_a_lag_that_this_user_may_not_see_is_no_zero() -> None:
    class Cursor:
        def execute(self, query: str) -> None:
            """Take the question."""

        def fetchone(self) -> tuple[int, int, None]:
            return 1, 0, None

    with pytest.raises(TelemetryError, match="GRANT pg_read_all_stats to it"):
        replication_lag(Cursor())  # type: ignore[arg-type]


def test_an_empty_window_is_refused(world: World, tmp_path: Path, command: list[str]) -> None:
    arguments = ["--database-file", command[2], "--directory", str(tmp_path / "a")]
    times = ["--from", START.isoformat(), "--to", (START - timedelta(seconds=1)).isoformat()]
    assert cli.main(["backfill", "export", *arguments, *times]) == 2
