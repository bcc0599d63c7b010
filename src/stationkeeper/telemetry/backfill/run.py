"""One whole recovery, as the command and the module start it: look, record, recover, look again, add up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stationkeeper.controller.windows import Window
from stationkeeper.telemetry import ledger
from stationkeeper.telemetry.backfill.archive import ArchiveSource
from stationkeeper.telemetry.backfill.bigquery import BigQuerySource
from stationkeeper.telemetry.backfill.engine import Options, Outcome
from stationkeeper.telemetry.backfill.pacing import Throttle
from stationkeeper.telemetry.backfill.plan import Planned, plan
from stationkeeper.telemetry.backfill.postgres import PostgresSource
from stationkeeper.telemetry.backfill.progress import Progress
from stationkeeper.telemetry.backfill.sources import Source
from stationkeeper.telemetry.backfill.workers import recover
from stationkeeper.telemetry.gaps import find_gaps
from stationkeeper.telemetry.source import TelemetryError, connected, reading

KINDS = ("postgresql", "archive", "bigquery")


@dataclass(frozen=True)
class SourceSpec:
    """A source by name. ``where`` is settings of a database, a directory, or ``project.dataset``."""

    name: str
    kind: str
    where: Mapping[str, Any] | str

    def make(self) -> Source:
        """Return the source. Raises TelemetryError for one that cannot be."""
        if self.kind == "postgresql" and not isinstance(self.where, str):
            return PostgresSource(self.name, self.where)
        if self.kind == "archive":
            return ArchiveSource(self.name, Path(str(self.where)))
        if self.kind == "bigquery":
            return BigQuerySource(self.name, str(self.where))
        raise TelemetryError(f"source {self.name}: {self.kind!r} is none of {', '.join(KINDS)}")


@dataclass(frozen=True)
class Scope:
    """Which gaps: those of the ledger, or with a window also what is found in it now and not recorded yet."""

    sites: Sequence[str] | None = None
    window: tuple[datetime, datetime] | None = None
    weekly: Mapping[str, Sequence[Window]] | None = None
    settle_s: float = 60.0


@dataclass(frozen=True)
class Result:
    """What was done; ``totals`` only with a window."""

    outcome: Outcome
    totals: dict[str, int] | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {**asdict(self.outcome), "totals": self.totals}


def foresee(
    settings: Mapping[str, Any], sources: Sequence[SourceSpec], scope: Scope, *, schema: str = "flux"
) -> list[Planned]:
    """Return what `recover_all` would ask for. Nothing is written. Raises TelemetryError."""
    _check(sources)
    with ExitStack() as stack:
        made = [stack.enter_context(closing(source.make())) for source in sources]
        connection = stack.enter_context(reading(settings))
        report = _look(connection, scope, schema) if scope.window else None
        return plan(connection, made, sites=scope.sites, report=report, schema=schema)


def recover_all(
    settings: Mapping[str, Any],
    sources: Sequence[SourceSpec],
    scope: Scope,
    options: Options,
    *,
    workers: int = 2,
    throttle: Throttle | None = None,
    progress: Progress | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Result:
    """Record the window's gaps, recover all that is open, look at the window again. Raises TelemetryError."""
    _check(sources)
    _record(settings, scope, options.schema, clock)
    outcome = recover(
        settings,
        lambda: [source.make() for source in sources],
        options,
        workers=workers,
        throttle=throttle,
        progress=progress,
    )
    return Result(outcome, _record(settings, scope, options.schema, clock))


def _record(
    settings: Mapping[str, Any], scope: Scope, schema: str, clock: Callable[[], datetime]
) -> dict[str, int] | None:
    if scope.window is None:
        return None
    with connected(settings) as connection:
        report = _look(connection, scope, schema)
        ledger.record(connection, report, clock(), schema=schema)
        return ledger.totals_of(connection, report, schema=schema).as_dict()


def _look(connection: Any, scope: Scope, schema: str) -> Any:
    assert scope.window is not None
    start, end = scope.window
    return find_gaps(
        connection, start, end, sites=scope.sites, settle_s=scope.settle_s, weekly=scope.weekly, schema=schema
    )


def _check(sources: Sequence[SourceSpec]) -> None:
    names = [source.name for source in sources]
    if not names:
        raise TelemetryError("no source is given: there is nowhere to recover rows from")
    if len(set(names)) != len(names):
        raise TelemetryError(f"two sources have the same name: {', '.join(names)}")
