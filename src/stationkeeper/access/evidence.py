"""What a host shows of itself after somebody broke in, as text without secrets: the fleeting first.

Reads only, as root. Standard library only: Ansible ships this file with the module that uses it.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from ..audit.redact import MASK, Redactor

#: A line that is longer is cut; the lines of maps and journals are not.
_LINE = 100_000
#: Where programs, settings and keys are, and where intruders put things.
ROOTS = (
    *("/etc", "/usr/bin", "/usr/sbin", "/usr/local", "/usr/lib/systemd", "/opt", "/root", "/home"),
    *("/var/spool/cron", "/tmp", "/var/tmp", "/dev/shm"),  # noqa: S108 (looked at, not used)
)


@dataclass(frozen=True)
class Part:
    """One file that was collected. ``problem`` says what is missing in it."""

    name: str
    lines: int
    sha256: str
    collected_at: str
    problem: str = ""


def parts(hours: float) -> Mapping[str, Callable[[], Iterator[str]]]:
    """Return what can be collected, by name, in the order of what goes first."""
    journal = ["journalctl", "--no-pager", "-q", "-o", "short-iso-precise", f"--since=-{hours * 3600:.0f}s"]
    commands = {
        "processes": [["ps", "-eww", "-o", "pid,ppid,uid,lstart,stat,args"]],
        "sockets": [["ss", "-Hanptu"], ["ss", "-Hanpx"]],
        "network": [["ip", "address"], ["ip", "route"], ["ip", "neighbour"], ["nft", "list", "ruleset"]],
        "sessions": [["loginctl", "--no-legend", "list-sessions"], ["who"]],
        "kernel": [["cat", "/proc/modules"], ["cat", "/proc/mounts"], ["uname", "-a"], ["uptime"]],
        "units": [
            ["systemctl", "--no-legend", "--no-pager", "--plain", "list-units", "--all"],
            ["systemctl", "--no-legend", "--no-pager", "list-timers", "--all"],
            ["systemctl", "--no-legend", "--no-pager", "list-unit-files"],
        ],
        "journal": [journal],
        "packages": [["dpkg-query", "-W"], ["dpkg", "--verify"]],
    }
    found: dict[str, Callable[[], Iterator[str]]] = {
        name: partial(_said, several) for name, several in commands.items()
    }
    order = ["processes", "sockets", "network", "memory_maps", "sessions", "kernel", "units", "journal"]
    found |= {"memory_maps": memory_maps, "file_hashes": partial(file_hashes, ROOTS)}
    return {name: found[name] for name in [*order, "packages", "file_hashes"]}


def collect(name: str, lines: Iterable[str], folder: Path, redactor: Redactor) -> Part:
    """Write the lines of one part to ``<name>.txt.gz`` without secrets, and return what was written."""
    path, at = folder / f"{name}.txt.gz", datetime.now(UTC).isoformat(timespec="seconds")
    count, problem = 0, ""
    with gzip.open(path, "wt", encoding="utf-8", errors="replace") as stream:
        try:
            for line in without_secrets(lines, redactor):
                stream.write(f"{line}\n")
                count += 1
        except (OSError, subprocess.SubprocessError) as error:
            problem = redactor.text(str(error))
    with path.open("rb") as written:
        return Part(name, count, hashlib.file_digest(written, "sha256").hexdigest(), at, problem)


def without_secrets(lines: Iterable[str], redactor: Redactor) -> Iterator[str]:
    """Mask what is, or looks like, a secret; of a private key all of its lines."""
    inside = False
    for line in lines:
        begins = "-----BEGIN" in line and "PRIVATE KEY" in line
        if inside or begins:
            yield MASK
            inside = "-----END" not in line
        else:
            yield redactor.text(line, _LINE)


def memory_maps(proc: Path = Path("/proc")) -> Iterator[str]:
    """Tell of every process its program, its folder and the files that are mapped; (deleted) is telling."""
    for entry in sorted(proc.iterdir(), key=lambda one: one.name):
        if not entry.name.isdigit():
            continue
        # It may have ended meanwhile; the kernel's own have neither.
        with contextlib.suppress(OSError):
            links = [(entry / link).readlink() for link in ("exe", "cwd")]
            yield f"{entry.name} exe {links[0]} cwd {links[1]}"
            mapped = {
                f"{words[1]} {words[5].strip()}"
                for line in (entry / "maps").read_text(errors="replace").splitlines()
                if len(words := line.split(None, 5)) == 6
            }
            yield from (f"{entry.name} {one}" for one in sorted(mapped))


def file_hashes(roots: Iterable[str]) -> Iterator[str]:
    """Tell of every file its SHA-256, mode, owner, size, times and path; of links where they lead."""
    for root in roots:
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                with contextlib.suppress(FileNotFoundError):
                    yield _file(Path(folder) / name)


def _file(path: Path) -> str:
    about = path.lstat()
    if path.is_symlink():
        content = f"link to {path.readlink()}"
    elif not path.is_file():
        content = "no file"
    else:
        try:
            with path.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            content = f"not read: {error.strerror}"
    times = " ".join(
        datetime.fromtimestamp(one, UTC).isoformat(timespec="seconds")
        for one in (about.st_mtime, about.st_ctime)
    )
    return f"{content} {about.st_mode:o} {about.st_uid}:{about.st_gid} {about.st_size} {times} {path}"


def _said(commands: Iterable[list[str]]) -> Iterator[str]:
    """Run commands and tell what they print; that one fails or is missing is told, too."""
    for command in commands:
        yield f"# {' '.join(command)}"
        try:
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
            )
        except FileNotFoundError:
            yield f"# {command[0]} is not installed"
            continue
        with process:
            assert process.stdout is not None
            for line in process.stdout:
                yield line.rstrip("\n")
        if process.returncode:
            yield f"# exit {process.returncode}"
