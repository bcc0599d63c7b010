"""Archive whole days of a site, record that they are archived, and look after what was recorded.

Retention drops a day only on the strength of a record (`flux.apply_retention`), so a record is made after the
archive was read back, never changes, and does not count any more once its archive is damaged or gone.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg2 import sql

from stationkeeper.telemetry.backfill.export import OtherRowsError, export, read_back
from stationkeeper.telemetry.backfill.files import require_arrow
from stationkeeper.telemetry.backfill.manifest import NAME, fingerprint, read_manifest
from stationkeeper.telemetry.source import (
    ARCHIVED,
    READINGS,
    REGISTRY,
    RETENTION,
    TelemetryError,
    changing,
    check_sites,
    has_table,
    snapshot,
)

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

DAY = timedelta(days=1)
RECOUNTED = timedelta(days=10)
_TIMEOUT_S = 600.0
_OLDEST = """
SELECT r.site, min(first.time AT TIME ZONE 'UTC')::date FROM {registry} r CROSS JOIN LATERAL (
    SELECT x.time FROM {readings} x WHERE x.device_id = r.id ORDER BY x.time LIMIT 1) AS first
WHERE r.type = %(type)s GROUP BY 1
"""
_RECORD = """
INSERT INTO {archived} (site, day, readings, location, rows, hash) VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (site, day, readings, location)
  DO UPDATE SET verified_at = now(), rows = excluded.rows, hash = excluded.hash
"""
_NOTE = """
UPDATE {archived} SET problem = %(problem)s WHERE site = %(site)s AND location = %(location)s
"""
# Records that retention may still act upon, and those of the days that are asked for.
_RECORDED = """
SELECT DISTINCT day, location, hash, problem FROM {archived} AS one
WHERE site = %(site)s AND starts_with(location, %(place)s) AND (day >= %(first)s OR day >= coalesce((
    SELECT min(dropped_before) FROM ops.{retention}), '-infinity')::date)
ORDER BY day, location
"""
_REPLACED = """
SELECT FROM {archived} AS bad JOIN {archived} AS good USING (site, day, readings)
WHERE bad.site = %(site)s AND bad.location = %(location)s AND good.problem IS NULL AND good.rows >= bad.rows
HAVING count(DISTINCT readings) = (
    SELECT count(*) FROM {archived} WHERE site = %(site)s AND location = %(location)s)
"""


@dataclass
class Archived:
    """What a run found and did. ``written`` and ``recorded`` count days (in a dry run: that would be).

    ``problems`` are sentences: archives that are not as recorded, and days that could not be archived.
    """

    rows: dict[str, int] = field(default_factory=dict)
    written: int = 0
    recorded: int = 0
    verified: int = 0
    problems: list[str] = field(default_factory=list)
    noted: bool = False

    @property
    def changed(self) -> bool:
        """Whether anything was written, recorded or noted."""
        return bool(self.written or self.recorded or self.noted)


def archive_days(
    connection: Connection,
    directory: Path,
    site: str,
    days: Sequence[date],
    *,
    format: str = "parquet",
    schema: str = "flux",
    dry_run: bool = False,
    host: str | None = None,
) -> Archived:
    """Look after a site's recorded archives on this host, then archive, read back and record ``days`` (UTC).

    A day whose rows have become more gets one more archive beside the first. A day that cannot be archived
    does not keep the others from it. Raises TelemetryError when nothing can be archived at all.
    """
    require_arrow()
    with snapshot(connection, timeout_s=_TIMEOUT_S) as cursor:
        if not has_table(cursor, schema, ARCHIVED):
            raise TelemetryError(f"{schema}.{ARCHIVED} does not exist: run the migrations first")
        check_sites(cursor, schema, [site])
    place = f"{host or socket.gethostname()}:"
    run = _Run(connection, directory.resolve(), site, format, schema, dry_run, place)
    run.look_after(min(days, default=date.max))
    for day in sorted(days):
        try:
            run.archive(day)
        except TelemetryError as error:
            run.done.problems.append(str(error))
    return run.done


@dataclass(frozen=True)
class Wanted:
    """The days of each site to archive, and those with rows of devices that the registry does not know."""

    sites: Mapping[str, Sequence[date]]
    of_unknown_devices: Sequence[date]


def days_to_archive(connection: Connection, *, last: date, days: int, schema: str = "flux") -> Wanted:
    """Return for each site the ``days`` days up to ``last``, and what else retention would wait for.

    That is every earlier day with raw rows and no record, so that a host that was off for weeks makes up for
    it; and of the `RECOUNTED` oldest days, which are dropped next, those with another number of rows than
    archived. Raises TelemetryError.
    """
    recent = [last - timedelta(days=back) for back in range(days)]
    names = {"registry": sql.Identifier(schema, REGISTRY), "archived": sql.Identifier(schema, ARCHIVED)}
    oldest: dict[str, date] = {}
    with snapshot(connection, timeout_s=_TIMEOUT_S) as cursor:
        cursor.execute(sql.SQL("SELECT DISTINCT site FROM {registry} ORDER BY site").format(**names))
        wanted = {str(row[0]): set(recent) for row in cursor.fetchall()}
        for kind, table in READINGS.items():
            cursor.execute(
                sql.SQL(_OLDEST).format(readings=sql.Identifier(schema, table), **names), {"type": kind}
            )
            for site, first in cursor.fetchall():
                oldest[site] = min(first, oldest.get(site, first))
        cursor.execute(
            sql.SQL("SELECT DISTINCT site, day FROM {archived} WHERE problem IS NULL").format(**names)
        )
        recorded = set(cursor.fetchall())
        for site, first in oldest.items():
            earlier = (first + timedelta(days=number) for number in range((min(recent) - first).days))
            wanted[site] |= {day for day in earlier if (site, day) not in recorded}
        first = min(oldest.values(), default=last)
        until = min(first + RECOUNTED, last + DAY)
        for table in READINGS.values() if first < until else ():
            query = sql.SQL("SELECT site, day FROM {}(%s, %s, %s)").format(
                sql.Identifier(schema, "unarchived_days")
            )
            cursor.execute(query, (f"{schema}.{table}", first, until))
            for site, day in cursor.fetchall():
                wanted.setdefault(site, set()).add(day)
    # Rows of devices without a registry row have no site.
    unknown = wanted.pop("", set())
    return Wanted({site: sorted(found) for site, found in wanted.items()}, sorted(unknown))


@dataclass
class _Run:
    """One site's archives below ``root``. ``bad`` has the locations of those that are not as recorded."""

    connection: Connection
    root: Path
    site: str
    format: str
    schema: str
    dry_run: bool
    place: str
    bad: set[str] = field(default_factory=set)
    done: Archived = field(default_factory=Archived)

    def look_after(self, first: date) -> None:
        """Hold this host's archives against their records, and note in these what is wrong."""
        names = {"archived": self._table, "retention": sql.Identifier(RETENTION)}
        with (snapshot if self.dry_run else changing)(self.connection, timeout_s=_TIMEOUT_S) as cursor:
            values = {"site": self.site, "place": self.place, "first": first}
            cursor.execute(sql.SQL(_RECORDED).format(**names), values)
            for day, location, hash_, known in cursor.fetchall():
                problem = _problem(Path(location.removeprefix(self.place)), hash_)
                at = {"site": self.site, "location": location, "problem": problem}
                if problem is None:
                    self.done.verified += 1
                else:
                    self.bad.add(location)
                    cursor.execute(sql.SQL(_REPLACED).format(**names), at)
                    if known is None or cursor.fetchone() is None:
                        self.done.problems.append(
                            f"the archive of {self.site} {day} was recorded, but {problem}"
                        )
                if problem != known:
                    self.done.noted = True
                    if not self.dry_run:
                        cursor.execute(sql.SQL(_NOTE).format(**names), at)

    def archive(self, day: date) -> None:
        """Archive one day in the first directory that holds its rows or is free, and record it."""
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        if start + DAY > datetime.now(UTC):
            raise TelemetryError(f"{day} is not over: only whole days are archived")
        for directory in self._directories(day):
            if f"{self.place}{directory}" in self.bad:
                continue
            try:
                one = export(
                    self.connection,
                    directory,
                    start,
                    start + DAY,
                    sites=[self.site],
                    format=self.format,
                    schema_name=self.schema,
                    dry_run=self.dry_run,
                )
            except OtherRowsError as error:
                # Rows that came after retention had dropped the day's are archived beside the others.
                if error.grown or self._is_dropped(day):
                    continue
                raise
            break
        self.done.rows[str(directory)] = one.rows
        self.done.written += one.changed
        # Rows that came again after they were dropped are verified again: retention takes them for others.
        if one.rows and (one.changed or not self._is_recorded(day, directory) or self._is_dropped(day)):
            self.done.recorded += 1
            if not self.dry_run:
                self._record(day, directory)

    @property
    def _table(self) -> sql.Identifier:
        return sql.Identifier(self.schema, ARCHIVED)

    def _directories(self, day: date) -> Iterator[Path]:
        yield self.root / f"{self.site}_{day}"
        for number in count(2):
            yield self.root / f"{self.site}_{day}_{number}"

    def _is_recorded(self, day: date, directory: Path) -> bool:
        with snapshot(self.connection, timeout_s=_TIMEOUT_S) as cursor:
            cursor.execute(
                sql.SQL("SELECT FROM {} WHERE (site, day, location) = (%s, %s, %s) LIMIT 1").format(
                    self._table
                ),
                (self.site, day, f"{self.place}{directory}"),
            )
            return cursor.fetchone() is not None

    def _is_dropped(self, day: date) -> bool:
        with snapshot(self.connection, timeout_s=_TIMEOUT_S) as cursor:
            cursor.execute(
                sql.SQL("SELECT max(dropped_before)::date > %s FROM ops.{}").format(
                    sql.Identifier(RETENTION)
                ),
                (day,),
            )
            return cursor.fetchone() == (True,)

    def _record(self, day: date, directory: Path) -> None:
        """Read an archive back and record it."""
        read_back(self.connection, directory, schema_name=self.schema)
        manifest = read_manifest(directory)
        rows: dict[str, int] = {}
        for file in manifest.files:
            rows[file.table] = rows.get(file.table, 0) + file.rows
        with changing(self.connection, timeout_s=_TIMEOUT_S) as cursor:
            for table, number in sorted(rows.items()):
                cursor.execute(
                    sql.SQL(_RECORD).format(archived=self._table),
                    (self.site, day, table, f"{self.place}{directory}", number, fingerprint(manifest)),
                )


def _problem(directory: Path, hash_: str) -> str | None:
    """Say what is wrong with an archive; its files' presence and size count, their content is not read."""
    if not (directory / NAME).exists():
        return f"{directory} is gone; bring it back from a copy"
    try:
        manifest = read_manifest(directory)
    except TelemetryError as error:
        return str(error)
    if fingerprint(manifest) != hash_:
        return f"{directory} is another archive than the recorded one; bring that back from a copy"
    return None
