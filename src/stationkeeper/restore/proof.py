"""Whether what was restored is whole: tables, hours on record, indexes and heaps, page checksums.

Standard library only: Ansible ships this file to the database host.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict, dataclass, field
from typing import Any

from . import contents
from .request import RestoreError
from .server import Server


@dataclass
class Proof:
    """What was found, by name, and what is wrong, each as a sentence."""

    evidence: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def prove(
    server: Server, only: tuple[str, ...] = (), *, checksums: bool = True, accept_short_hours: bool = False
) -> Proof:
    """Prove the data of a scratch server that runs; it runs again afterwards.

    ``only`` are the databases that were restored; all when empty. For the page checksums the server is
    stopped for a while. With ``accept_short_hours`` hours that have fewer rows than are on record are only
    evidence. Raises RestoreError when it cannot be done.
    """
    import psycopg2

    proof = Proof()
    try:
        with closing(server.connect()) as connection, connection.cursor() as cursor:
            names = contents.databases(cursor, only)
        missing = sorted(set(only) - set(names))
        proof.problems += [f"database {name} is not there" for name in missing]
        proof.evidence["databases"] = {name: _one(server, name, proof, accept_short_hours) for name in names}
    except psycopg2.Error as error:
        # A page that cannot be read says so here.
        proof.problems.append(str(error).strip().splitlines()[0])
        return proof
    proof.evidence["amcheck"] = _amcheck(server, names, proof)
    if checksums:
        proof.evidence["checksums"] = _checksums(server, proof)
    return proof


def _one(server: Server, name: str, proof: Proof, accept_short: bool) -> dict[str, Any]:
    with closing(server.connect(name)) as connection, connection.cursor() as cursor:
        found = contents.tables(cursor)
        hours = contents.hours(cursor)
    if hours is not None and hours.short and not accept_short:
        proof.problems.append(
            f"{hours.short} of {hours.checked} hours of {name} have fewer rows than are on record:"
            f" {hours.example}"
        )
    return {"tables": contents.as_dicts(found), "hours": asdict(hours) if hours else None}


def _amcheck(server: Server, names: list[str], proof: Proof) -> str:
    where = ["--host", str(server.directory), "--port", str(server.port), "--username", "postgres"]
    jobs = f"--jobs={server.installation.jobs}"
    which = [f"--database={name}" for name in names]
    made = [name for name in names if _extend(server, name, "CREATE EXTENSION amcheck")]
    try:
        server.installation.run(
            server.installation.program("pg_amcheck", *where, "--no-password", jobs, *which)
        )
    except RestoreError as error:
        proof.problems.append(str(error))
        return "failed"
    finally:
        for name in made:
            _extend(server, name, "DROP EXTENSION amcheck")
    return "every heap and index is sound"


def _extend(server: Server, name: str, statement: str) -> bool:
    """Make or drop the extension; say whether that changed anything."""
    with closing(server.connect(name)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("SELECT FROM pg_extension WHERE extname = 'amcheck'")
        if (cursor.rowcount > 0) == statement.startswith("CREATE"):
            return False
        cursor.execute(statement)
    return True


def _checksums(server: Server, proof: Proof) -> str:
    installation = server.installation
    if installation.control(server.data).get("Data page checksum version") == "0":
        return "the cluster has none"
    server.stop()
    try:
        said = installation.run(installation.program("pg_checksums", "--check", "-D", server.data))
    except RestoreError as error:
        proof.problems.append(str(error))
        return "failed"
    finally:
        server.start()
    blocks = next((line for line in said.splitlines() if line.startswith("Blocks scanned")), "all right")
    return blocks.replace(":  ", " ").strip()
