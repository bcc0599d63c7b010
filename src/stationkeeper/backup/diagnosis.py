"""Why backups fail: settings, disk, stop files, connections, repositories, archiving."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import record
from .content import parse
from .gauges import space
from .run import Settings
from .tool import BackupError

#: Below this share of the repository's file system a backup may find no room.
FREE_PERCENT = 10.0
# pgBackRest's own default, which it makes with mode 0770.
_LOCKS = Path("/tmp/pgbackrest")  # noqa: S108
_LOGS = Path("/var/log/pgbackrest")


@dataclass(frozen=True)
class Answer:
    """One question: whether all is well, what was seen, and what mends it (empty: nothing here)."""

    name: str
    good: bool
    message: str
    mend: str = ""

    def as_dict(self) -> dict[str, object]:
        """Return plain data for Ansible."""
        return asdict(self)


def diagnose(settings: Settings, archive_wait_s: int = 30) -> list[Answer]:
    """Ask everything that can be asked on the repository host. Changes nothing.

    A segment of WAL may take ``archive_wait_s`` seconds to arrive.
    """
    return list(_questions(settings, archive_wait_s))


def _questions(settings: Settings, archive_wait_s: int) -> Iterator[Answer]:
    yield _configuration(settings)
    yield _disk(settings.repository_path)
    yield _stopped(settings.stanza)
    yield _log(settings.stanza)
    yield from _connections(settings)
    yield from _repositories(settings)
    yield _archiving(settings, archive_wait_s)
    for kind, run in sorted(record.load(settings.record).runs.items()):
        yield Answer(f"last run of {kind}", run["succeeded"], run["message"], "retry")


def _configuration(settings: Settings) -> Answer:
    path = Path(settings.config)
    try:
        seen = path.stat()
        owner = pwd.getpwuid(seen.st_uid).pw_name
    except (OSError, KeyError) as error:
        return Answer("configuration", good=False, message=f"{path}: {error}", mend="converge")
    good = owner == settings.user and seen.st_mode & 0o077 == 0
    message = f"{path} belongs to {owner}, mode {seen.st_mode & 0o777:04o}"
    return Answer("configuration", good, message, "converge")


def _disk(path: Path) -> Answer:
    try:
        size, free = space(path)
    except OSError as error:
        return Answer("disk", good=False, message=f"{path}: {error}", mend="converge")
    percent = 100 * free / size
    message = f"{path} has {percent:.1f} % free ({free / 1024**3:.1f} GiB)"
    mend = "remove what else fills it, or see playbooks/backup_expire.yml; backups go on by themselves then"
    return Answer("disk", percent >= FREE_PERCENT, message, mend)


def _stopped(stanza: str) -> Answer:
    found = [str(path) for name in (stanza, "all") if (path := _LOCKS / f"{name}.stop").exists()]
    if not found:
        return Answer("stop file", good=True, message="nobody stopped pgBackRest here")
    return Answer("stop file", good=False, message=f"somebody stopped pgBackRest: {found[0]}", mend="start")


def _log(stanza: str) -> Answer:
    """Show the last error of the last backup, as the log of pgBackRest has it."""
    path = _LOGS / f"{stanza}-backup.log"
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return Answer("log", good=True, message="no backup was ever tried")
    last = text.rsplit("-------------------PROCESS START-------------------", 1)[-1]
    errors = re.findall(r"ERROR: (.*)", last)
    if errors:
        return Answer("log", good=False, message=errors[-1].strip(), mend="retry")
    return Answer("log", good=True, message="the last backup logged no error")


def _hosts(settings: Settings) -> list[str]:
    try:
        return re.findall(r"^pg\d+-host=(\S+)$", Path(settings.config).read_text(), re.MULTILINE)
    except OSError:
        return []


def _connections(settings: Settings) -> Iterator[Answer]:
    """Log in to every database host the way pgBackRest does."""
    for host in _hosts(settings):
        code, said = _remote(settings, host, "version", 30)
        good = code == 0 and said.startswith("pgBackRest")
        yield Answer(f"connection to {host}", good, said[-200:] or "no answer", "converge")


def _remote(settings: Settings, host: str, command: str, timeout_s: int) -> tuple[int, str]:
    """Run pgBackRest on a database host, which allows its key nothing else; return exit code and output."""
    account = pwd.getpwnam(settings.user)
    privileges: dict[str, Any] = {}
    if os.geteuid() == 0:
        privileges = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    login = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", f"postgres@{host}"]
    try:
        done = subprocess.run(
            [*login, f"pgbackrest {command}"],
            env={"PATH": "/usr/bin:/bin", "HOME": account.pw_dir, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
            **privileges,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 255, str(error)
    return done.returncode, " ".join(done.stdout.split())


def _repositories(settings: Settings) -> Iterator[Answer]:
    try:
        content = parse(settings.tool.info(), settings.stanza)
    except BackupError as error:
        yield Answer("repository", good=False, message=str(error), mend="converge")
        return
    for one in content.repositories:
        mend = "converge (a stanza that is missing, a wrong passphrase, a certificate that has expired)"
        yield Answer(f"repository {one.key}", one.answers, one.message, mend)
    if content.busy:
        yield Answer("lock", good=False, message="a backup runs now", mend="wait for it")


def _archiving(settings: Settings, wait_s: int) -> Answer:
    """Have the primary end a segment of WAL; it is found by asking all, since a standby refuses."""
    command = f"check --archive-timeout={wait_s}"
    hosts = _hosts(settings)
    said = ""
    for host in hosts:
        code, said = _remote(settings, host, f"--stanza={settings.stanza} {command}", 300)
        if code == 0:
            return Answer("archiving", good=True, message=f"WAL of {host} reaches the repository")
    if hosts:
        return Answer("archiving", good=False, message=said[-300:], mend="converge")
    done = settings.tool.run(*command.split(), timeout_s=300)
    return Answer("archiving", done.code == 0, done.problem if done.code else "WAL arrives", "converge")
