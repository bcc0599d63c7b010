"""A restore into an instance of its own: made, recovered to its target, kept under its name, removed.

Standard library only: Ansible ships this file to the database host. The live server is never touched.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..files import write_atomically
from .programs import Installation
from .recovery import Verdict, judge, read_log
from .repository import Backup, choose
from .request import Request, RestoreError, rfc3339
from .server import Server

#: What recovery itself needs beside the files of the backup: segments that are fetched ahead.
SPARE_BYTES = 1 << 30
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,30}")


@dataclass(frozen=True)
class Plan:
    """What a restore will do: the backup that it begins with, and where the archive ends."""

    request: Request
    backup: Backup
    archived_to: str | None
    needed_bytes: int
    free_bytes: int


@dataclass(frozen=True)
class Scratch:
    """One scratch instance, by its name, in a directory of ``base``."""

    installation: Installation
    base: Path
    name: str
    port: int

    def __post_init__(self) -> None:
        """Refuse names that are no plain directory. Raises RestoreError."""
        if not _NAME.fullmatch(self.name):
            raise RestoreError(f"{self.name!r} is no name for a scratch instance: a-z, 0-9, _ and - only")

    @property
    def directory(self) -> Path:
        """The instance's own directory."""
        return self.base / self.name

    @property
    def server(self) -> Server:
        """Its server."""
        return Server(self.installation, self.directory, self.port, self.directory / "data")

    def record(self) -> dict[str, Any] | None:
        """Return what is known of it, or nothing when there is none. Raises RestoreError."""
        # Made, and ended before the record was written.
        if not self.directory.exists() or all(path.name.startswith(".") for path in self.directory.iterdir()):
            return None
        try:
            record: dict[str, Any] = json.loads((self.directory / "restore.json").read_text())
        except (OSError, ValueError):
            # Never made by us, or a removal that did not get to its end: the record goes last.
            raise RestoreError(
                f"{self.directory} is no scratch instance of ours (it has no restore.json); look at it, and"
                " move it away or take another name"
            ) from None
        return record

    def plan(self, request: Request) -> Plan:
        """Say what a restore would do. Raises RestoreError when it cannot be done; nothing is touched."""
        repository = self.installation.repository()
        backup = choose(repository, request)
        parent = next(path for path in (self.base, *self.base.parents) if path.exists())
        needed, free = backup.size + backup.size // 10 + SPARE_BYTES, shutil.disk_usage(parent).free
        if free < needed:
            raise RestoreError(
                f"{parent} has {free >> 20} MiB free, the restore of {backup.label} needs {needed >> 20} MiB"
            )
        return Plan(request, backup, repository.archived_to, needed, free)

    def make(self, request: Request, *, timeout_s: float) -> Verdict:
        """Restore, recover and judge; the server runs when the target was reached.

        An instance of the same name that is not finished is made anew, a finished one is refused. Raises
        RestoreError; what was restored stays to be looked at.
        """
        with self._held() as lock:
            record = self.record()
            if record is not None and record["state"] == "ready":
                raise RestoreError(f"scratch instance {self.name} is there ({record['target']})")
            if record is not None:
                self._discard()
            plan = self.plan(request)
            self.installation.make_directory(self.base)
            self.installation.make_directory(self.directory)
            self._note("restoring", plan)
            self.installation.make_directory(self.server.data)
            self.installation.run(self._restore_command(plan), held=[lock])
            self._note("recovering", plan)
            # A server that ends at once has its reason in its log, where it is judged.
            with suppress(RestoreError):
                self.server.start(timeout_s=timeout_s)
            verdict = recover(self.server, request, archived_to=plan.archived_to, timeout_s=timeout_s)
            self._note("ready" if verdict.reached else "failed", plan, verdict)
            return verdict

    def start(self) -> None:
        """Start a finished instance that does not run, as after a reboot. Raises RestoreError."""
        if not self.server.running():
            self.server.start()

    def remove(self) -> bool:
        """Stop and delete it; say whether there was one. Raises RestoreError."""
        if self.record() is None:
            return False
        with self._held():
            self._discard()
        return True

    def _discard(self) -> None:
        self.server.stop(mode="immediate")
        for path in self.directory.iterdir():
            if path.name != "restore.json":
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        shutil.rmtree(self.directory)

    def _note(self, state: str, plan: Plan, verdict: Verdict | None = None) -> None:
        record = {
            "state": state,
            "request": plan.request.as_dict(),
            "target": str(plan.request),
            "backup": plan.backup.label,
            "archived_to": plan.archived_to,
            "port": self.port,
            "made_at": rfc3339(datetime.now(UTC)),
            "reached": {**verdict.evidence, "message": verdict.message} if verdict else None,
        }
        write_atomically(self.directory / "restore.json", json.dumps(record, indent=1), mode=0o644)

    @contextmanager
    def _held(self) -> Iterator[int]:
        """Hold the instance. A pgBackRest that outlives its caller holds it until it ends."""
        self.installation.make_directory(self.base)
        descriptor = os.open(self.base / f".{self.name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RestoreError(
                    f"another run works on scratch instance {self.name}; wait for it, or take another name"
                ) from None
            yield descriptor
        finally:
            os.close(descriptor)

    def _restore_command(self, plan: Plan) -> list[str]:
        installation, directory = self.installation, self.directory
        # Locks and spool of its own: the live server's archiving uses the others.
        own = [f"--pg1-path={self.server.data}", f"--lock-path={directory / 'lock'}"]
        ahead = ["--archive-async", f"--spool-path={directory / 'spool'}"]
        fetch = installation.pgbackrest(*own, *ahead, "archive-get")
        return installation.pgbackrest(
            *own,
            f"--process-max={installation.jobs}",
            f"--repo={plan.backup.repository}",
            f"--set={plan.backup.label}",
            *target_options(plan.request, "pause"),
            *(f"--db-include={name}" for name in plan.request.databases),
            "--archive-mode=off",
            f"--tablespace-map-all={directory / 'tablespaces'}",
            f'--recovery-option=restore_command={shlex.join(fetch)} %f "%p"',
            "restore",
        )


def target_options(request: Request, action: str) -> list[str]:
    """Return pgBackRest's options for a target; ``action`` is what the server does when it is there."""
    if request.time is not None:
        moment = request.time.strftime("%Y-%m-%d %H:%M:%S.%f+00")
        return ["--type=time", f"--target={moment}", f"--target-action={action}"]
    if request.kind == "immediate":
        return ["--type=immediate", f"--target-action={action}"]
    return ["--type=default"]


def recover(server: Server, request: Request, *, archived_to: str | None, timeout_s: float) -> Verdict:
    """Wait until recovery has ended or paused, judge it, and open the server for writing if it is right.

    Raises RestoreError after the time, in seconds.
    """
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        looked = _look(server)
        if (looked is None and server.running()) or (looked is not None and looked.busy):
            time.sleep(0.1)
            continue
        recovery = read_log(server.log.read_text(errors="replace"))
        if looked is None:
            return judge(request, recovery, last_replayed=None, lsn=None, archived_to=archived_to)
        verdict = judge(request, recovery, last_replayed=looked.last, lsn=looked.lsn, archived_to=archived_to)
        if verdict.reached and looked.paused:
            with closing(server.connect()) as connection, connection.cursor() as cursor:
                connection.autocommit = True
                cursor.execute("SELECT pg_promote(true, 600)")
                cursor.execute("CHECKPOINT")
        return verdict
    raise RestoreError(f"recovery has not ended after {timeout_s:.0f} s; it goes on, see {server.log}")


@dataclass(frozen=True)
class _Looked:
    """What a server answers: whether it replays, whether it has paused, and how far it is."""

    busy: bool
    paused: bool
    last: datetime | None
    lsn: str | None


def _look(server: Server) -> _Looked | None:
    """Ask a server how far it is; nothing when it does not answer. It may end at any moment."""
    import psycopg2

    try:
        with closing(server.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_is_in_recovery(), pg_is_in_recovery()"
                " AND pg_get_wal_replay_pause_state() = 'paused',"
                " pg_last_xact_replay_timestamp(), pg_last_wal_replay_lsn()::text"
            )
            recovering, paused, last, lsn = cursor.fetchone() or (True, False, None, None)
    except psycopg2.OperationalError:
        return None
    return _Looked(recovering and not paused, paused, last, lsn)
