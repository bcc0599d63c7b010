"""A restore in place of the live cluster. The old directory is kept beside it, under a dated name.

Standard library only: Ansible ships this file to the database host. The caller, who knows the service, stops
the live server before and starts it afterwards. Between, recovery runs in a private server: no client sees
anything before the target and the data are proven, and until then the old directory can go back.
"""

from __future__ import annotations

import json
import shutil
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..files import sync_directory, write_atomically
from .programs import Installation
from .proof import Proof, prove
from .recovery import Verdict
from .repository import Backup, choose
from .request import Request, RestoreError, rfc3339
from .scratch import SPARE_BYTES, recover, target_options
from .server import Server

# What pgBackRest writes for one recovery. A later standby of this cluster would stop there.
_TARGETS = (
    *("recovery_target", "recovery_target_action", "recovery_target_inclusive"),
    *("recovery_target_time", "recovery_target_timeline"),
)


@dataclass(frozen=True)
class InPlace:
    """The live cluster of an installation, and a directory beside it for its restore."""

    installation: Installation

    @property
    def _data(self) -> Path:
        return self.installation.data

    @property
    def _beside(self) -> Path:
        return self._data.with_name(f".{self._data.name}.restore")

    @property
    def server(self) -> Server:
        """The private server that recovers the live directory."""
        return Server(self.installation, self._beside, 5432, self._data, lasting=True)

    def record(self) -> dict[str, Any] | None:
        """Return what is known of a restore that has begun and has not ended, or nothing."""
        try:
            record: dict[str, Any] = json.loads((self._beside / "restore.json").read_text())
        except FileNotFoundError:
            return None
        return record

    def check(self, request: Request) -> Backup:
        """Return the backup to restore. Raises RestoreError when it cannot be done; nothing is touched."""
        if request.databases:
            raise RestoreError("in place the whole cluster is restored; one database goes into a scratch one")
        if any((self._data / "pg_tblspc").glob("*")):
            raise RestoreError(
                "the cluster has tablespaces outside of its directory, which would be overwritten; restore"
                " into a scratch instance"
            )
        backup = choose(self.installation.repository(), request)
        needed, free = (
            backup.size + backup.size // 10 + SPARE_BYTES,
            shutil.disk_usage(self._data.parent).free,
        )
        if free < needed and self.record() is None:
            raise RestoreError(
                f"{self._data.parent} has {free >> 20} MiB free, the restore of {backup.label} needs"
                f" {needed >> 20} MiB beside the old directory, which is kept"
            )
        return backup

    def restore(
        self, request: Request, *, timeout_s: float, accept_short_hours: bool = False
    ) -> tuple[Path, Verdict, Proof]:
        """Restore, recover and prove; return where the old directory is kept. The live server must be down.

        A restore that broke off is begun again. The data are the live cluster's when the verdict is reached
        and the proof has no problem, and the server is down again; else call `undo`. Raises RestoreError.
        """
        backup = self.check(request)
        if self.record() is None:
            self._require_down()
        else:
            self.server.stop(mode="immediate")
        kept = self._put_aside(request)
        archived_to = self.installation.repository().archived_to
        self.installation.run(
            self.installation.pgbackrest(
                f"--pg1-path={self._data}",
                f"--process-max={self.installation.jobs}",
                f"--repo={backup.repository}",
                f"--set={backup.label}",
                *target_options(request, "pause"),
                # Over what a restore that broke off has left.
                "--delta",
                "--force",
                "restore",
            )
        )
        server = self.server
        # A server that ends at once has its reason in its log, where it is judged.
        with suppress(RestoreError):
            server.start(timeout_s=timeout_s)
        verdict = recover(server, request, archived_to=archived_to, timeout_s=timeout_s)
        if not verdict.reached:
            return kept, verdict, Proof()
        proof = prove(server, accept_short_hours=accept_short_hours)
        self._forget_target()
        server.stop()
        return kept, verdict, proof

    def settle(self) -> None:
        """End it: what was restored is the live cluster now."""
        shutil.rmtree(self._beside)

    def undo(self) -> Path | None:
        """Put the old directory back, delete what was restored, and return it; nothing if none had begun."""
        record = self.record()
        if record is None:
            return None
        self.server.stop(mode="immediate")
        kept = Path(record["kept"])
        if kept.exists():
            if self._data.exists():
                shutil.rmtree(self._data)
            kept.rename(self._data)
            sync_directory(self._data.parent)
        self.settle()
        return self._data

    def _require_down(self) -> None:
        if self.server.running():
            raise RestoreError(f"the server in {self._data} runs; stop it first")

    def _put_aside(self, request: Request) -> Path:
        record = self.record()
        if record is None:
            now = datetime.now(UTC)
            kept = self._data.with_name(f"{self._data.name}.{now:%Y%m%dT%H%M%SZ}")
            record = {"kept": str(kept), "begun_at": rfc3339(now)}
        kept = Path(record["kept"])
        self.installation.make_directory(self._beside)
        # First the record: whatever happens then, it says where the old directory is.
        content = json.dumps(record | {"request": request.as_dict()})
        write_atomically(self._beside / "restore.json", content, mode=0o644)
        if not kept.exists():
            # A host that lost its disk may have none; then an empty one is kept.
            self.installation.make_directory(self._data)
            self._data.rename(kept)
            sync_directory(self._data.parent)
        self.installation.make_directory(self._data)
        return kept

    def _forget_target(self) -> None:
        with closing(self.server.connect()) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                for name in _TARGETS:
                    cursor.execute(f"ALTER SYSTEM RESET {name}")
