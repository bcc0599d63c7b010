"""The file that tells jobs where they work. It holds passwords, so it is root's and its group may read it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stationkeeper.jobs.interface import JobError, JobSettings, RedisSettings
from stationkeeper.jobs.status import Schedule
from stationkeeper.telemetry.explanations import weekly_windows


class _Redis(BaseModel):
    model_config = ConfigDict(extra="forbid")

    host: str
    port: int = 6379
    user: str
    password: str


class _Job(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    calendar: str
    interval_s: float = Field(gt=0)
    limit_s: float = Field(gt=0)
    options: dict[str, Any] = {}


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    system: str = Field(min_length=1)
    db_schema: str = Field(default="flux", alias="schema")
    database: dict[str, Any]
    redis: _Redis | None = None
    archive_directory: Path
    metrics_directory: Path
    weekly_windows: dict[str, Any] = {}
    jobs: list[_Job] = []


@dataclass(frozen=True)
class Configuration:
    """What stands in the file."""

    file: _File

    @property
    def schedules(self) -> list[Schedule]:
        """The jobs that are declared."""
        return [Schedule(job.name, job.interval_s, job.limit_s) for job in self.file.jobs]

    @property
    def schema(self) -> str:
        """The schema of the telemetry tables."""
        return self.file.db_schema

    def schedule(self, name: str) -> Schedule:
        """Return when a job is due. Raises JobError when it is not declared."""
        for one in self.schedules:
            if one.name == name:
                return one
        declared = ", ".join(one.name for one in self.schedules) or "none"
        raise JobError(f"job {name!r} is not scheduled on this host; declared are {declared}")

    def settings(self, name: str = "") -> JobSettings:
        """Return where a job works; one that is not declared has no options. Raises TelemetryError."""
        given = self.file
        return JobSettings(
            system=given.system,
            schema=given.db_schema,
            database=given.database,
            redis=RedisSettings(**given.redis.model_dump()) if given.redis else None,
            archive_directory=given.archive_directory,
            metrics_directory=given.metrics_directory,
            weekly=weekly_windows(given.weekly_windows),
            options=next((job.options for job in given.jobs if job.name == name), {}),
        )


def read(path: Path) -> Configuration:
    """Read the file. Raises JobError, never with a value of the file."""
    try:
        with path.open(encoding="utf-8") as stream:
            if stat.S_IMODE(os.fstat(stream.fileno()).st_mode) & 0o007:
                raise JobError(f"{path} holds passwords and everybody may read it: chmod 640 {path}")
            return Configuration(_File.model_validate_json(stream.read()))
    except OSError as error:
        raise JobError(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise JobError(f"{path}: {where or 'the file'}: {first['msg']}") from None
