"""Whether git holds a secret in plain text: by a file's name, by its text, and by the values themselves."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from stationkeeper.secrets.rotation import SINCE, SUFFIX
from stationkeeper.secrets.vault import is_vault

_NAMES = re.compile(
    r"(^|/)(id_(rsa|ecdsa|ed25519)|.*\.(pem|key|p12|pfx|keystore|kdbx)|secrets\.ya?ml|\.pgpass|\.vault_pass.*)$"
)
_TEXT = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----\s*\n[A-Za-z0-9+/=]{16}|AGE-SECRET-KEY-1[0-9A-Z]{58}")
_TEXT_LIMIT = 1_000_000
#: A shorter one would be found in any text.
_SHORTEST_VALUE = 12


def tracked_files(root: Path) -> list[Path]:
    """Return the files that git knows, of those that exist."""
    listing = _git(root, "ls-files", "-z").decode()
    return [root / name for name in listing.split("\0") if name and (root / name).is_file()]


def file_problems(root: Path, files: Iterable[Path]) -> list[str]:
    """Return the files that look like a secret; a vault may stand in git."""
    problems = []
    for path in files:
        shown, text = path.relative_to(root), _text(path)
        if _NAMES.search(str(shown)) and not is_vault(text):
            problems.append(f"{shown}: a file of this name holds a secret and does not belong in git")
        elif _TEXT.search(text):
            problems.append(f"{shown}: contains a private key")
    return problems


def history_problems(root: Path, secrets: Mapping[str, str]) -> list[str]:
    """Return where a value stands in any version of any file that git holds; ``secrets`` has them by name."""
    values = {
        value.encode(): name
        for name, value in secrets.items()
        # A date is in many files.
        if len(value) >= _SHORTEST_VALUE and not name.endswith((SINCE, SUFFIX))
    }
    if not values:
        return []
    known = re.compile(b"|".join(re.escape(value) for value in values))
    return [
        f"{values[match[0]]} is in a version of a file (git log --all --find-object={name}): rotate it"
        for name, content in _blobs(root)
        for match in [known.search(content)]
        if match
    ]


def _blobs(root: Path) -> Iterator[tuple[str, bytes]]:
    """Return name and content of every version of every file, also of those that no commit has yet."""
    command = ["git", "cat-file", "--batch-all-objects", "--unordered", "--batch"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for header in process.stdout:
            name, kind, size = header.split()
            content = process.stdout.read(int(size) + 1)
            if kind == b"blob":
                yield name.decode(), content


def _text(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as stream:
        return stream.read(_TEXT_LIMIT)


def _git(root: Path, *arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True).stdout
