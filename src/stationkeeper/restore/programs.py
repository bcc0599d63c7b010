"""The programs of one PostgreSQL installation and pgBackRest, run without a shell.

Standard library only: Ansible ships this file to the database host.
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from .repository import Repository, merged, parse_info
from .request import RestoreError

CONFIGURATION = "/etc/pgbackrest/pgbackrest.conf"


@dataclass(frozen=True)
class Installation:
    """Where things are on a database host, and how to call them.

    ``programs`` is PostgreSQL's own directory: the wrappers in /usr/bin choose a version by
    themselves. ``data`` and ``configuration`` (postgresql.conf) are the live cluster's. ``backrest`` are
    further options for pgBackRest, like ``--config=``.
    """

    programs: Path
    data: Path
    configuration: Path
    stanza: str
    backrest: tuple[str, ...] = ()
    jobs: int = 2
    # Whose the clusters are: PostgreSQL's programs refuse to be run by root.
    account: str = "postgres"

    def program(self, name: str, *arguments: str | Path) -> list[str]:
        """Return the command line of one of PostgreSQL's programs."""
        return [str(self.programs / name), *map(str, arguments)]

    def pgbackrest(self, *arguments: str) -> list[str]:
        """Return the command line of pgBackRest for the stanza; the command comes last."""
        return ["pgbackrest", f"--stanza={self.stanza}", *self.backrest, *arguments]

    def repository(self) -> Repository:
        """Ask every repository what it has. Raises RestoreError when none has a backup.

        One after the other: asked about all of them at once, pgBackRest does not learn how the second and
        those after it are encrypted.
        """
        found, unanswered = [], []
        for number in self._repositories():
            try:
                told = self.run(self.pgbackrest(f"--repo={number}", "--output=json", "info"))
                found.append(parse_info(told, self.stanza, number))
            except RestoreError as error:
                unanswered.append(f"repository {number}: {error}")
        if not found:
            raise RestoreError("; ".join(unanswered))
        return merged(found, unanswered)

    def _repositories(self) -> list[int]:
        """Return the numbers of the repositories that this host's configuration names; 1 is the default."""
        named = [word.removeprefix("--config=") for word in self.backrest if word.startswith("--config=")]
        try:
            text = Path(named[0] if named else CONFIGURATION).read_text()
        except OSError as error:
            raise RestoreError(f"pgBackRest is not configured here: {error}") from None
        return sorted({int(number) for number in re.findall(r"^repo(\d+)-", text, re.MULTILINE)}) or [1]

    def setting(self, name: str) -> str:
        """Return a setting of the live cluster, from its files: it may be down. Raises RestoreError."""
        where: list[str | Path] = ["-D", self.data, f"--config-file={self.configuration}"]
        return self.run(self.program("postgres", *where, "-C", name)).strip()

    def control(self, data: Path) -> dict[str, str]:
        """Return what pg_controldata says about a data directory. Raises RestoreError."""
        lines = self.run(self.program("pg_controldata", "-D", data)).splitlines()
        return {
            name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines) if value
        }

    def run(
        self, command: Sequence[str], *, variables: Mapping[str, str] | None = None, held: Sequence[int] = ()
    ) -> str:
        """Run a program as the account and return its output. Raises RestoreError with its last words.

        ``held`` are descriptors that it inherits, so that a lock is held until it ends.
        """
        # In English: its words are judged.
        environment = os.environ | {"LC_ALL": "C.UTF-8"} | dict(variables or {})
        privileges: dict[str, Any] = {}
        if os.geteuid() == 0:
            privileges = {
                "user": self.account,
                "group": pwd.getpwnam(self.account).pw_gid,
                "extra_groups": [],
            }
        # Files, since a server that is started would hold pipes open for as long as it runs. Of storage that
        # refuses something pgBackRest repeats every byte, and not all are text.
        with (
            tempfile.TemporaryFile("w+", errors="replace") as output,
            tempfile.TemporaryFile("w+", errors="replace") as errors,
        ):
            try:
                done = subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=errors,
                    check=False,
                    env=environment,
                    cwd="/",
                    pass_fds=held,
                    **privileges,
                )
            except FileNotFoundError:
                raise RestoreError(f"{command[0]} is not installed") from None
            said, cried = (_text(stream) for stream in (output, errors))
        if done.returncode != 0:
            # pgBackRest writes errors to its standard output.
            words = [line for line in (said + cried).splitlines() if line.strip()]
            raise RestoreError(
                f"{Path(command[0]).name} failed ({done.returncode}): {' / '.join(words[-4:])}"
            )
        return said

    def make_directory(self, path: Path) -> None:
        """Make a directory that only the account can enter; it may be there."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            entry = pwd.getpwnam(self.account)
            os.chown(path, entry.pw_uid, entry.pw_gid)


def _text(stream: TextIO) -> str:
    stream.seek(0)
    return stream.read()
