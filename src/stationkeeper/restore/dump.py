"""A logical dump of a whole database, hypertables and all, that counts only once it was restored again.

`pg_dump` of a schema or of some tables leaves the rows of hypertables out, since they lie in another schema;
one of a whole database does not. Standard library only: Ansible ships this file to the database host.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..files import sync_directory
from . import contents
from .dump_make import Source, make_dump
from .dump_restore import Target, restore_database
from .programs import Installation
from .request import RestoreError
from .server import Server

_NAME = re.compile(r"(?P<database>.+)-(?P<at>\d{8}T\d{6}Z)")


@dataclass(frozen=True)
class Dump:
    """A dump that was verified: where, of when, bytes, its tables, and the older ones pruned for it."""

    directory: Path
    began: datetime
    size: int
    tables: list[contents.Table]
    pruned: list[str]


@dataclass(frozen=True)
class Dumper:
    """Makes dumps of a database in ``base`` and keeps them for ``keep_days``."""

    installation: Installation
    source: Source
    base: Path
    keep_days: int

    def existing(self) -> list[Path]:
        """Return the finished dumps of the database, oldest first."""
        found = self.base.glob(f"{self.source.database}-*Z")
        return sorted(path for path in found if _NAME.fullmatch(path.name))

    def run(self) -> Dump:
        """Dump, restore into a server of its own, compare, and only then name it and prune older ones.

        Raises RestoreError; then older dumps are as they were, and the new one is gone.
        """
        self.installation.make_directory(self.base)
        with self._alone():
            for left in self.base.glob(".*.part"):
                self._check_server(left).stop(mode="immediate")
                shutil.rmtree(left)
            began = datetime.now(UTC)
            name = f"{self.source.database}-{began:%Y%m%dT%H%M%SZ}"
            part = self.base / f".{name}.part"
            self.installation.make_directory(part)
            try:
                tables = make_dump(self.installation, self.source, part, began)
                self._verify(part, tables)
                shutil.rmtree(part / "check")
                # The whole directory, or nothing of it.
                part.rename(self.base / name)
                sync_directory(self.base)
            except BaseException:
                self._check_server(part).stop(mode="immediate")
                shutil.rmtree(part)
                raise
            made = self.base / name
            size = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
            return Dump(made, began, size, tables, self._prune(began))

    def _verify(self, part: Path, tables: list[contents.Table]) -> None:
        """Restore into a cluster of its own: on the live one every row would go to archive and standbys."""
        installation, server = self.installation, self._check_server(part)
        installation.make_directory(server.directory)
        options = ["--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync"]
        installation.run(installation.program("initdb", "--auth=peer", "-D", server.data, *options))
        server.start()
        try:
            where = Target(str(server.directory), server.port, self.source.database)
            restore_database(installation, part, where, server.directory)
            with closing(server.connect(self.source.database)) as connection, connection.cursor() as cursor:
                wrong = contents.differences(tables, contents.tables(cursor))
        finally:
            server.stop(mode="immediate")
        if wrong:
            raise RestoreError(f"the dump was restored and is not the same: {'; '.join(wrong[:5])}")

    def _check_server(self, part: Path) -> Server:
        directory = part / "check"
        return Server(self.installation, directory, 5432, directory / "data")

    def _prune(self, now: datetime) -> list[str]:
        pruned = []
        for path in self.existing():
            match = _NAME.fullmatch(path.name)
            assert match is not None
            at = datetime.strptime(match["at"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            if at < now - timedelta(days=self.keep_days):
                shutil.rmtree(path)
                pruned.append(path.name)
        return pruned

    @contextmanager
    def _alone(self) -> Iterator[None]:
        descriptor = os.open(self.base / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise RestoreError(f"another run dumps into {self.base}; wait for it") from None
        try:
            yield
        finally:
            os.close(descriptor)
