"""The logical dump as a timer runs it: `run` as the database's account, `figures` as root afterwards.

Standard library only (psycopg2 is imported where used): it runs on a database host without the package.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from ..backup.files.figures import write_run, write_success
from ..database.connection import connect
from ..files import write_atomically
from .dump import Dumper
from .dump_make import Source
from .programs import Installation
from .request import RestoreError, rfc3339

KIND = "logical"


def dumper(settings: dict[str, Any], source: Source) -> Dumper:
    """Return what makes dumps of a database with plain settings. Raises KeyError."""
    installation = Installation(
        programs=Path(settings["programs"]),
        data=Path(settings["data_directory"]),
        configuration=Path(settings["config_file"]),
        stanza="",
        jobs=settings["jobs"],
    )
    return Dumper(installation, source, Path(settings["directory"]), settings["keep_days"])


def is_standby(source: Source) -> bool:
    """Say whether the server is a standby. Raises psycopg2's errors."""
    session = connect(source.settings(), target_session_attrs="any")
    with closing(session) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT pg_is_in_recovery()")
        return bool((cursor.fetchone() or (False,))[0])


def dump_all(settings: dict[str, Any]) -> dict[str, Any]:
    """Dump every database of the settings and return plain data about it; it is empty on a standby.

    Raises RestoreError at the first database that fails, psycopg2's errors when the server does not answer.
    """
    began, dumps = time.time(), []
    sources = [Source(settings["socket"], settings["port"], name) for name in settings["databases"]]
    if is_standby(sources[0]):
        return {}
    for source in sources:
        dump = dumper(settings, source).run()
        dumps.append(
            {
                "database": source.database,
                "directory": str(dump.directory),
                "began": rfc3339(dump.began),
                "size_bytes": dump.size,
                "tables": len(dump.tables),
                "rows": sum(table.rows for table in dump.tables),
                "pruned": dump.pruned,
            }
        )
    record = {"began": began, "ended": time.time(), "dumps": dumps}
    write_atomically(Path(settings["directory"]) / "last.json", json.dumps(record, indent=1), mode=0o640)
    return record


def figures(settings: dict[str, Any], *, succeeded: bool) -> None:
    """Write the figures of the last run, and of the last success where this was one. Raises OSError."""
    metrics, now = Path(settings["metrics_directory"]), time.time()
    try:
        record = json.loads((Path(settings["directory"]) / "last.json").read_text())
    except FileNotFoundError:
        record = None
    if succeeded and record is not None:
        size = sum(dump["size_bytes"] for dump in record["dumps"])
        write_success(metrics, KIND, began=record["began"], verified=record["ended"], size=size)
    duration = record["ended"] - record["began"] if succeeded and record else 0.0
    write_run(metrics, KIND, succeeded=succeeded, ended=now, duration_s=duration)


def main() -> int:
    """Run the command; 0 when every dump was made and verified, or when this is a standby."""
    parser = argparse.ArgumentParser(prog="stationkeeper-database-dump")
    parser.add_argument("what", choices=["run", "figures"])
    parser.add_argument("--settings", type=Path, required=True)
    options = parser.parse_args()
    settings = json.loads(options.settings.read_text())
    if options.what == "figures":
        # Of the unit that this ends; a run that was killed has written nothing itself.
        figures(settings, succeeded=os.environ.get("SERVICE_RESULT", "success") == "success")
        return 0
    try:
        record = dump_all(settings)
    except RestoreError as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    for dump in record.get("dumps", []):
        print(f"{dump['directory']}: {dump['rows']} rows of {dump['tables']} tables, restored and compared")
    if not record:
        print("nothing to do: this is a standby, the primary dumps")
    return 0


if __name__ == "__main__":
    sys.exit(main())
