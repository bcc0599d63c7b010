"""Settings of a server that fit the memory and the cores of its host.

Standard library only (psycopg2 comes in with the connection): Ansible ships this file to the database host.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)

_MEGABYTE = 1024 * 1024
# A value that is this close is no reason to restart a server.
_CLOSE = 0.15
_LEAST_MEMORY_MB = 128
# TimescaleDB's background workers, and the server's own.
_OTHER_WORKERS = 8


class TuningError(Exception):
    """The host cannot be measured, or a role cannot get a setting; the message says why."""


@dataclass(frozen=True)
class Host:
    """What a server may use: memory in MB, and processors."""

    memory_mb: int
    cores: int


def measure(root: Path = Path("/")) -> Host:
    """Return the memory and processors of this host, within the limits of its control group."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
        total = int(next(line for line in lines if line.startswith("MemTotal:")).split()[1]) * 1024
    except (OSError, StopIteration, ValueError, IndexError) as error:
        raise TuningError(f"the memory of this host cannot be read: {error!r}") from None
    for limit in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, int((root / limit).read_text()))
        except (OSError, ValueError):
            continue  # Another version of control groups, or no limit (max).
    return Host(total // _MEGABYTE, len(os.sched_getaffinity(0)))


def recommend(host: Host, *, memory_percent: float) -> dict[str, int]:
    """Return what the inventory should say of a host: ``postgresql_memory_mb``, and settings by cores.

    Buffers and caches follow from the memory by the role postgresql itself. ``work_mem`` is not among them:
    it holds for each sort of each connection, so what a role needs belongs to that role.
    """
    half = max(1, host.cores // 2)
    return {
        "postgresql_memory_mb": max(_LEAST_MEMORY_MB, int(host.memory_mb * memory_percent / 100)),
        "max_worker_processes": host.cores + _OTHER_WORKERS,
        "max_parallel_workers": host.cores,
        "max_parallel_workers_per_gather": min(half, 4),
        "max_parallel_maintenance_workers": min(half, 4),
        "autovacuum_max_workers": min(max(half, 3), 8),
    }


def advice(
    wanted: Mapping[str, int], memory_mb: int, settings: Mapping[str, Any], force: Mapping[str, str]
) -> dict[str, str]:
    """Return the lines to write into the inventory, by name, where it differs from ``wanted`` by much.

    ``settings`` are its ``postgresql_settings``, ``force`` what the server has of those it does not name.
    """
    lines = {}
    for name, value in wanted.items():
        has = memory_mb if name == "postgresql_memory_mb" else settings.get(name, force.get(name))
        if not _is_close(has, value):
            lines[name] = f"{value} (is {has})"
    return lines


def _is_close(has: Any, wanted: int) -> bool:
    try:
        return abs(float(has) - wanted) <= _CLOSE * wanted
    except (TypeError, ValueError):
        return False


def in_force(connection: Connection, names: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the values of settings as the server has them, and the names of all that wait for a restart."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT name, setting, pending_restart FROM pg_settings ORDER BY name")
        rows = cursor.fetchall()
    return (
        {name: value for name, value, _ in rows if name in names},
        [name for name, _, pending in rows if pending],
    )


def role_settings(connection: Connection, database: str) -> dict[str, dict[str, str]]:
    """Return the settings that roles have in a database: by role and name, as text."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT rolname, setconfig FROM pg_db_role_setting AS s JOIN pg_roles AS r ON r.oid = s.setrole"
            " WHERE s.setdatabase = (SELECT oid FROM pg_database WHERE datname = %s)",
            (database,),
        )
        return {role: dict(item.split("=", 1) for item in items) for role, items in cursor}


def converge_roles(
    connection: Connection, database: str, wanted: Mapping[str, Mapping[str, Any]], *, check: bool
) -> list[str]:
    """Give each named role its settings in a database; return a line for each that was (would be) changed.

    What a role has beside them stays. ``connection`` is in autocommit. Raises TuningError for a role or a
    setting that the server refuses; then nothing was changed.
    """
    import psycopg2
    from psycopg2 import sql

    has = role_settings(connection, database)
    changes = [
        (role, name, str(value))
        for role, settings in wanted.items()
        for name, value in settings.items()
        if has.get(role, {}).get(name) != str(value)
    ]
    with connection.cursor() as cursor:
        cursor.execute("BEGIN")
        try:
            for role, name, value in changes:
                statement = sql.SQL("ALTER ROLE {} IN DATABASE {} SET {} = {}")
                names = [sql.Identifier(part) for part in (role, database, name)]
                cursor.execute(statement.format(*names, sql.Literal(value)))
        except psycopg2.Error as error:
            cursor.execute("ROLLBACK")
            raise TuningError(str(error).strip().splitlines()[0]) from None
        # Check mode has had the server judge them as well.
        cursor.execute("ROLLBACK" if check else "COMMIT")
    return [
        f"{role}: {name} = {value} (was {has.get(role, {}).get(name, 'unset')})"
        for role, name, value in changes
    ]
