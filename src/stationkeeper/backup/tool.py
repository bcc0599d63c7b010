"""pgBackRest as a program: its answers as data, its errors as one sentence.

Standard library only, since it runs on the repository host.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import subprocess
from dataclasses import dataclass
from typing import Any

#: What `pgbackrest` ends with when another one of the same kind holds the lock.
LOCKED = 50
_LOOK_TIMEOUT_S = 300


class BackupError(Exception):
    """Something about the backups is wrong; the message says what, and what to do."""


@dataclass(frozen=True)
class Done:
    """How a run of pgBackRest ended: its exit code and all that it printed."""

    code: int
    output: str

    @property
    def problem(self) -> str:
        """Return what pgBackRest calls the errors, on one line, without its hints."""
        found = re.findall(r"ERROR: (\[\d+\]: .*(?:\n {20,}(?!HINT).*)*)", self.output)
        lines = found[-3:] or self.output.strip().splitlines()[-1:] or ["it printed nothing"]
        said = "; ".join(" ".join(line.split()) for line in lines)
        # With a wrong passphrase it quotes what it decrypted.
        return "".join(letter if letter.isprintable() and letter != "\ufffd" else "?" for letter in said)


@dataclass(frozen=True)
class PgBackRest:
    """pgBackRest for one stanza. ``user`` is whom it runs as when the caller is root."""

    stanza: str
    user: str
    config: str

    def run(self, command: str, *options: str, timeout_s: float | None = None) -> Done:
        """Run a command to its end, whatever that is. Raises BackupError when it cannot be run in time."""
        arguments = ["pgbackrest", command, f"--config={self.config}", f"--stanza={self.stanza}", *options]
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PGBACKREST_")}
        try:
            account = pwd.getpwnam(self.user)
            # ssh takes the home directory from the account, psql's library some of it from here.
            environment = kept | {"LC_ALL": "C.UTF-8", "HOME": account.pw_dir, "USER": self.user}
            privileges: dict[str, Any] = {}
            if os.geteuid() == 0:
                privileges = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            done = subprocess.run(
                arguments,
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
                **privileges,
            )
        except KeyError as error:
            message = f"there is no account {self.user}; converge this host with playbooks/site.yml"
            raise BackupError(message) from error
        except (OSError, subprocess.TimeoutExpired) as error:
            message = f"pgbackrest {command}: {error}"
            raise BackupError(message) from error
        return Done(done.returncode, done.stdout)

    def answer(self, command: str, *options: str) -> str:
        """Return what a command that only looks prints. Raises BackupError."""
        done = self.run(command, "--log-level-file=off", *options, timeout_s=_LOOK_TIMEOUT_S)
        if done.code != 0:
            message = f"pgbackrest {command}: {done.problem}"
            raise BackupError(message)
        return done.output

    def info(self) -> list[dict[str, Any]]:
        """Return what the repositories say that they hold. Raises BackupError."""
        found: list[dict[str, Any]] = self._parsed(
            "info", self.answer("info", "--output=json", "--log-level-console=off")
        )
        return found

    def files(self, repository: int, path: str) -> dict[str, dict[str, Any]]:
        """Return the files below a path of a repository, by their path from there. Raises BackupError."""
        listed = self.answer(
            "repo-ls", "--output=json", "--recurse", f"--repo={repository}", "--log-level-console=off", path
        )
        found: dict[str, dict[str, Any]] = self._parsed("repo-ls", listed)
        return {name: entry for name, entry in found.items() if entry["type"] == "file"}

    def read(self, repository: int, path: str) -> str:
        """Return the text of one file of a repository. Raises BackupError."""
        return self.answer("repo-get", f"--repo={repository}", "--log-level-console=off", path)

    @staticmethod
    def _parsed(command: str, text: str) -> Any:
        try:
            # With a wrong passphrase it quotes what it decrypted, control characters and all.
            return json.loads(text, strict=False)
        except json.JSONDecodeError as error:
            message = f"pgbackrest {command} gave no JSON: {' '.join(text.split())[:200]}"
            raise BackupError(message) from error
