"""Make the cluster of this host follow a primary, whatever it was, and keep what it held.

Each step looks first at what is there, so a run that was killed anywhere is finished by the next one.
Standard library only: Ansible ships this file to the host, where it runs as root.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...files import sync_directory
from .control import ControlError, configuration, declare_start, dsn, start, stop, wait_for
from .node import CLUSTERS, PROGRAMS, as_postgres, look, lsn_bytes, psql, reason

COPY_S = 24 * 3600
STREAM_S = 120
#: Settings of a former life in postgresql.auto.conf; those in the role's own files stay in force.
FORMER = re.compile(r"\s*(primary_|recovery_|restore_command|synchronous_standby_names)")


@dataclass(frozen=True)
class Wanted:
    """Whom to follow: the primary's address and port, by which slot (and name) and as which role."""

    primary: str
    port: int
    slot: str
    version: int
    cluster: str = "main"
    user: str = "replicator"
    rewind_user: str = "rewind"
    method: str = "auto"

    def source(self, user: str, **more: str) -> str:
        """Return libpq's address of the primary."""
        words = {"host": self.primary, "port": self.port, "user": user, **more}
        words |= {"sslmode": "require", "channel_binding": "require", "connect_timeout": "5"}
        return " ".join(f"{key}={value}" for key, value in words.items())


@dataclass
class Outcome:
    """What was done: the method, where the old data are kept, and what only they had."""

    changed: bool = False
    method: str | None = None
    kept: str | None = None
    kept_bytes: int = 0
    diverged_at: str | None = None
    lost_transactions: int | None = None
    lost_bytes: int | None = None
    steps: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome for Ansible."""
        return asdict(self)


class Rejoin:
    """One host on its way to follow the primary."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.outcome = Outcome()
        self.programs = PROGRAMS / str(wanted.version) / "bin"
        self.data = CLUSTERS / str(wanted.version) / wanted.cluster
        self.joining = self.data.with_name(f"{wanted.cluster}.joining")
        self.copying = self.data.with_name(f"{wanted.cluster}.copying")
        # There while pg_rewind changes the data in place: they are neither the old nor the new ones then.
        self.rewinding = self.data.with_name(f"{wanted.cluster}.rewinding")

    def follows(self) -> bool:
        """Return whether the host streams from the primary now."""
        return self._follows(look(self.wanted.cluster))

    def run(self) -> Outcome:
        """Bring the host to follow the primary, if it has a configuration started and streaming.

        Raises ControlError, which names what stands in the way.
        """
        node = look(self.wanted.cluster)
        if self._follows(node):
            return self.outcome
        self.outcome.changed = True
        primary = self._identify()
        self._refuse_another_database(node, primary[0])
        if node["exists"] and configuration(node).is_dir():
            # Nobody may start what is half changed, not the guard either; `_begin` takes it back.
            declare_start(node, "disabled")
        if node["running"]:
            self._step("stopped the server")
            stop(node)
            node = look(self.wanted.cluster)
        self._choose(node, primary)
        try:
            self._begin()
        except ControlError as error:
            if self.wanted.method != "auto" or self.outcome.method == "clone":
                raise
            self._step(f"its data do not do, so copied: {error}")
            node = look(self.wanted.cluster)
            if node["running"]:
                stop(node)
            self._clone(node)
            self._begin()
        return self.outcome

    def _begin(self) -> None:
        """Follow with the data that are there now, where the cluster has a configuration."""
        self._finish()
        node = look(self.wanted.cluster)
        if configuration(node).is_dir():
            declare_start(node, "manual")
            start(node)
            self._stream(node)

    def _follows(self, node: dict[str, Any]) -> bool:
        upstream = node["upstream"] or {}
        streams = node["role"] == "standby" and upstream.get("status") == "streaming"
        return bool(streams and upstream["host"] == self.wanted.primary)

    def _step(self, text: str) -> None:
        self.outcome.steps.append(text)

    def _ask(self, command: str) -> str:
        """What the primary answers to a command of the replication protocol."""
        try:
            return psql(command, self.wanted.source(self.wanted.user, replication="1", dbname="postgres"))
        except (OSError, subprocess.SubprocessError) as error:
            raise ControlError(
                f"the primary {self.wanted.primary} does not let {self.wanted.user} in: {reason(error)}"
            ) from error

    def _identify(self) -> tuple[str, int]:
        identifier, timeline, *_ = self._ask("IDENTIFY_SYSTEM").split("|")
        return identifier, int(timeline)

    def _refuse_another_database(self, node: dict[str, Any], identifier: str) -> None:
        if node["exists"] and node["system_identifier"] != identifier and self.wanted.method != "clone":
            raise ControlError(
                f"this host holds another database (system identifier {node['system_identifier']}, that of "
                f"the primary is {identifier}): only method clone takes that, and keeps this one beside it"
            )

    def _choose(self, node: dict[str, Any], primary: tuple[str, int]) -> None:
        """Follow as it is, rewind or copy: what the data allow, or what was asked for."""
        timeline = primary[1]
        method = self.wanted.method
        if not node["exists"] or self.rewinding.exists() or method == "clone":
            if method == "follow":
                raise ControlError("there are no data that can follow as they are: database_rejoin")
            return self._clone(node)
        self._measure(node, timeline)
        ended_cleanly = node["state"] in ("shut down", "shut down in recovery")
        if self.outcome.lost_bytes == 0 and (node["was"] == "standby" or ended_cleanly):
            self.outcome.method = "follow"
            return None
        if method == "follow":
            raise ControlError(
                f"its data left those of the primary at {self.outcome.diverged_at}: database_rejoin keeps "
                "them, and counts what they have that the primary does not"
            )
        try:
            return self._rewind(node)
        except ControlError as error:
            if method == "rewind":
                raise
            self._step(f"pg_rewind is not possible: {error}")
            return self._clone(node)

    def _measure(self, node: dict[str, Any], timeline: int) -> None:
        """Find out what the old data have after the point where the primary's history left theirs."""
        own = int(node["timeline"])
        if own == timeline:
            # A standby of this timeline, or a primary whose successor has not been promoted.
            self.outcome.lost_bytes = 0 if node["was"] == "standby" else None
            return
        if own > timeline:
            raise ControlError(
                f"this host is on timeline {own}, the primary on the older {timeline}: the newer one counts. "
                "Look with database_status; database_failover makes this host the primary"
            )
        history = self._ask(f"TIMELINE_HISTORY {timeline}")
        switches = dict(re.findall(r"(\d+)\s+([0-9A-F]+/[0-9A-F]+)", history))
        if str(own) not in switches:
            raise ControlError(f"timeline {own} of this host is not in the primary's history: method clone")
        self.outcome.diverged_at = switches[str(own)]
        self.outcome.lost_transactions, end = self._commits_after(own, switches[str(own)])
        self.outcome.lost_bytes = max(0, end - lsn_bytes(switches[str(own)]))

    def _commits_after(self, timeline: int, position: str) -> tuple[int, int]:
        """Count the transactions in the log after a position; return them and where the log ends."""
        command: list[str | Path] = [self.programs / "pg_waldump", "-p", self.data / "pg_wal"]
        command += ["-t", str(timeline), "-s", position]
        try:
            text = as_postgres(command, timeout_s=COPY_S)
        except subprocess.CalledProcessError as error:
            # It always ends so where the log ends.
            text = str(error.stdout)
        records = [line for line in text.splitlines() if line.startswith("rmgr:")]
        ends = [
            found[1] for line in records[-1:] if (found := re.search(r"lsn: ([0-9A-F]+/[0-9A-F]+)", line))
        ]
        commits = sum(1 for line in records if "desc: COMMIT" in line)
        return commits, lsn_bytes(ends[0]) + 1 if ends else lsn_bytes(position)

    def _keep(self, place: Callable[[Path], None]) -> None:
        """Keep the old data under a dated name."""
        kept = self.data.with_name(f"{self.data.name}.kept-{datetime.now(UTC):%Y%m%dT%H%M%SZ}")
        place(kept)
        self.outcome.kept = str(kept)
        self.outcome.kept_bytes = _size(kept)

    def _rename(self, kept: Path) -> None:
        self.data.rename(kept)

    def _rewind(self, node: dict[str, Any]) -> None:
        size, free = _size(self.data), shutil.disk_usage(self.data).free
        if size * 1.1 > free:
            raise ControlError(f"no room for a copy of the old data ({size >> 20} MB, {free >> 20} MB free)")
        config = configuration(node) / "postgresql.conf"

        def copy(kept: Path) -> None:
            _remove(self.copying)
            subprocess.run(["cp", "-a", "--reflink=auto", self.data, self.copying], check=True)
            self.copying.rename(kept)

        try:
            self._keep(copy)
            self.rewinding.touch()
            source = self.wanted.source(self.wanted.rewind_user, dbname="postgres")
            command: list[str | Path] = [self.programs / "pg_rewind", f"--source-server={source}"]
            command += ["-D", self.data, f"--config-file={config}"]
            if node["state"] not in ("shut down", "shut down in recovery"):
                self._step("recovered the crashed data, which pg_rewind needs")
                single: list[str | Path] = [self.programs / "postgres", "--single", "-F", "-D", self.data]
                single += ["-c", f"config_file={config}", "-c", "archive_mode=off", "template1"]
                as_postgres(single, timeout_s=COPY_S)
            as_postgres([*command, "--dry-run"], timeout_s=COPY_S)
            as_postgres(command, timeout_s=COPY_S)
        except (OSError, subprocess.SubprocessError) as error:
            raise ControlError(reason(error)) from error
        self.outcome.method = "rewind"

    def _clone(self, node: dict[str, Any]) -> None:
        """Copy the primary's data beside the old ones, and change the names when the copy is whole."""
        self.outcome.method = "clone"
        if not (self.joining / "standby.signal").exists():
            _remove(self.joining)
            # One that has lost what it should keep is of no use any more.
            with suppress(ControlError):
                self._ask(f"DROP_REPLICATION_SLOT {self.wanted.slot}")
            self._reserve()
            source = self.wanted.source(self.wanted.user, application_name="pg_basebackup")
            command: list[str | Path] = [self.programs / "pg_basebackup", "-d", source]
            command += [
                "-D",
                self.joining,
                "-X",
                "stream",
                "-S",
                self.wanted.slot,
                "-c",
                "fast",
                "--no-password",
            ]
            self.joining.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            shutil.chown(self.joining.parent, "postgres", "postgres")
            try:
                as_postgres(command, timeout_s=COPY_S)
                as_postgres(["touch", self.joining / "standby.signal"])
            except (OSError, subprocess.SubprocessError) as error:
                raise ControlError(f"the copy from {self.wanted.primary} failed: {reason(error)}") from error
        if self.data.exists() and self.rewinding.exists():
            # Half rewound; what it was before is kept already.
            _remove(self.data)
        elif node["exists"]:
            self._keep(self._rename)
        elif self.data.exists():
            # Without a version file it is no cluster, only the empty directory of one.
            self.data.rmdir()
        self.joining.rename(self.data)
        sync_directory(self.data.parent)

    def _reserve(self) -> None:
        """Have the primary keep the log for this host from now on."""
        try:
            self._ask(f"CREATE_REPLICATION_SLOT {self.wanted.slot} PHYSICAL (RESERVE_WAL)")
        except ControlError as error:
            if "already exists" not in str(error):
                raise

    def _finish(self) -> None:
        """Make a standby of the data at rest: the signal, and no setting of a former life."""
        automatic = self.data / "postgresql.auto.conf"
        lines = automatic.read_text().splitlines(keepends=True) if automatic.exists() else []
        as_postgres(["touch", self.data / "standby.signal"])
        automatic.write_text("".join(line for line in lines if not FORMER.match(line)))
        shutil.chown(automatic, "postgres", "postgres")
        with suppress(FileNotFoundError):
            self.rewinding.unlink()
        if self.outcome.method != "clone":
            with suppress(ControlError):
                self._reserve()

    def _stream(self, node: dict[str, Any]) -> None:
        until = time.monotonic() + STREAM_S
        while not self._follows(found := wait_for(node, ["standby"], timeout_s=STREAM_S)):
            if time.monotonic() > until:
                raise ControlError(
                    f"it is a standby, and receives nothing from {self.wanted.primary} after {STREAM_S} s: "
                    "look at /var/log/postgresql. Where its log is gone from the primary, method clone helps"
                )
            time.sleep(0.2)
        # Those of its time as a primary would hold back log here for ever.
        for slot in found["slots"]:
            if slot["type"] == "physical" and not slot["active"]:
                psql(f"SELECT pg_drop_replication_slot('{slot['name']}')", dsn(found))


def _size(directory: Path) -> int:
    """Bytes of the files below a directory that nobody writes to."""
    return sum(path.lstat().st_size for path in directory.rglob("*") if not path.is_symlink())


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
