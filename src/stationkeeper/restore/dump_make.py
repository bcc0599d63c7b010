"""A dump of one whole database with the counts of its tables at the same moment, not yet proven.

Standard library only: Ansible ships this file to the database host.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ..database.connection import connect
from ..files import write_atomically
from . import contents
from .dump_look import sha256
from .programs import Installation
from .request import rfc3339


@dataclass(frozen=True)
class Source:
    """The live database, by its server's socket."""

    socket: str
    port: int
    database: str

    def settings(self) -> dict[str, Any]:
        """Return the settings of its connection."""
        return {"hosts": [self.socket], "port": self.port, "name": self.database, "user": "postgres"}


def make_dump(
    installation: Installation, source: Source, part: Path, began: datetime
) -> list[contents.Table]:
    """Dump a whole database and the roles into a directory that is there; return its tables at that moment.

    Raises RestoreError and psycopg2's errors.
    """
    settings = source.settings()
    with closing(connect(settings, target_session_attrs="any")) as connection:
        connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
        with connection.cursor() as cursor:
            # The counts and the dump see the same moment.
            cursor.execute("SELECT pg_export_snapshot(), current_setting('server_version_num')::int")
            snapshot, version = cursor.fetchone() or ("", 0)
            tables = contents.tables(cursor)
            compression = "--compress=zstd:1" if version >= 160000 else "--compress=1"
            where = ["-h", source.socket, "-p", str(source.port), "-U", "postgres", "--no-password"]
            dump = installation.program(
                *("pg_dump", *where, "--format=directory", f"--jobs={installation.jobs}"),
                *(compression, f"--snapshot={snapshot}", f"--file={part / 'data'}", source.database),
            )
            # Beside the live server with what is left of the processor.
            installation.run(["nice", "-n", "10", *dump])
            cursor.execute("SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'")
            timescaledb = (cursor.fetchone() or (None,))[0]
    # The roles own what is dumped. No passwords: they are the inventory's.
    options = ["--roles-only", "--no-role-passwords", f"--file={part / 'roles.sql'}"]
    installation.run(installation.program("pg_dumpall", *where, *options))
    files = [path for path in sorted(part.rglob("*")) if path.is_file()]
    manifest = {
        "database": source.database,
        "began": rfc3339(began),
        "server_version": version,
        "timescaledb": timescaledb,
        "tables": contents.as_dicts(tables),
        "files": {str(path.relative_to(part)): sha256(path) for path in files},
    }
    write_atomically(part / "manifest.json", json.dumps(manifest, indent=1), mode=0o640)
    return tables
