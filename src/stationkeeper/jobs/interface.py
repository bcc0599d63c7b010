"""What a job gets and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stationkeeper.controller.windows import Window as WeeklyWindow


class JobError(Exception):
    """A job cannot be done; the message says why, for an operator, without a secret."""


@dataclass(frozen=True)
class RedisSettings:
    """How to reach the hot tier."""

    host: str
    port: int
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class JobSettings:
    """Where a job works.

    ``database`` are settings for `database.connection.connect`; sessions opened with them carry the run's own
    application name, so that exactly these can be ended. ``options`` are those of the job that runs.
    """

    system: str
    database: Mapping[str, Any] = field(repr=False)
    archive_directory: Path
    metrics_directory: Path
    schema: str = "flux"
    redis: RedisSettings | None = None
    weekly: Mapping[str, Sequence[WeeklyWindow]] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sample:
    """One figure for Prometheus: a gauge's name (with its unit), what it says, its value and labels."""

    name: str
    help: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class JobResult:
    """What a run did: rows processed, plain data for the job table, and figures of its own."""

    records: int
    evidence: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Sample] = ()


#: A job. It fails with an exception, best a JobError or TelemetryError: an operator reads its message.
Work = Callable[[JobSettings], JobResult]
