"""Take secrets out of what is recorded.

Three nets, one behind the other: the value of anything that is *named* like a secret, every *known* secret
value wherever it turns up, and text that *looks* like a credential. Ansible's own ``no_log`` comes first.
"""

from __future__ import annotations

import base64
import difflib
import json
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from typing import Any

MASK = "********"
MAX_TEXT = 2000
MAX_DIFF = 8000
MAX_ITEMS = 50
# What is longer is cut before the search, so that a huge result cannot stall a play.
_MAX_SEARCHED = 200_000
# Shorter values would blank out ordinary words.
_MIN_SECRET = 6
_MAX_DEPTH = 12

_SECRET_NAME = re.compile(
    r"pass(word|wd|phrase|code)|(^|_)(pass|pin|psk|auth)($|_)|secret|token|api_?key|(access|private|signing|encryption|ssl)_?key"
    r"|credential|authorization|cookie|dsn|vault|connection_?string|(^|_)pwd",
    re.IGNORECASE,
)
_WORDS = r"pass(?:word|wd|phrase)|secret|token|pwd|api[_-]?key|credential"
_VALUE = r"(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s,;&\"'}\]]+)"
# Every repetition that a failed match would try again has a limit: without one, a long text takes minutes.
_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        MASK,
    ),
    (re.compile(r"AGE-SECRET-KEY-1[0-9A-Z]+"), MASK),
    (re.compile(r"\beyJ[\w-]{8,2000}\.[\w-]{8,4000}\.[\w-]*"), MASK),
    # Password hashes of crypt(3), and those of PostgreSQL.
    (re.compile(r"\$(1|2[aby]?|5|6|7|y|gy|argon2\w*)\$[^\s:'\"]{8,}"), MASK),
    (re.compile(r"SCRAM-SHA-256\$[^\s'\"]+"), MASK),
    # scheme://user:password@host; the password may itself hold an @ or a slash.
    (
        re.compile(r"([a-z][a-z0-9+.-]{0,30}://[^\s:/@'\"]{0,200}:)[^\s'\"]{1,500}@", re.IGNORECASE),
        rf"\1{MASK}@",
    ),
    (
        re.compile(r"(\b(?:Bearer|Authorization:\s{0,9}Basic)\s{1,9})[\w.~+/=-]{6,}", re.IGNORECASE),
        rf"\1{MASK}",
    ),
    # --password value, PGPASSWORD=value, "token": "value"; but not "the password of a user".
    (
        re.compile(rf"(--[\w-]{{0,60}}(?:{_WORDS})[\w-]{{0,60}}[\s=]{{1,9}}){_VALUE}", re.IGNORECASE),
        rf"\1{MASK}",
    ),
    (
        re.compile(rf"((?:{_WORDS})[\w.-]{{0,60}}[\"']?\s{{0,9}}[:=]\s{{0,9}}){_VALUE}", re.IGNORECASE),
        rf"\1{MASK}",
    ),
)


class Redactor:
    """Redacts with the secrets it was taught."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.learn(secrets)

    def learn(self, secrets: Iterable[str]) -> None:
        """Add values that must never appear; values below 6 characters are left to the other nets."""
        new = set()
        for secret in secrets:
            # A diff or a log shows a secret of several lines one line at a time.
            lines = [line.strip() for line in secret.splitlines()]
            plain = {text for text in (secret.strip(), *lines) if len(text) >= _MIN_SECRET}
            new |= plain.union(*(_spellings(text) for text in plain))
        if new - self._known:
            self._known |= new
            longest_first = sorted(self._known, key=len, reverse=True)
            self._pattern = re.compile("|".join(re.escape(text) for text in longest_first))

    def text(self, value: str, limit: int = MAX_TEXT) -> str:
        """Return ``value`` without secrets, shortened to ``limit`` characters."""
        value = value[:_MAX_SEARCHED]
        if self._pattern is not None:
            value = self._pattern.sub(MASK, value)
        for pattern, replacement in _PATTERNS:
            value = pattern.sub(replacement, value)
        return value if len(value) <= limit else f"{value[:limit]}… ({len(value) - limit} more characters)"

    def value(self, value: Any, *, depth: int = 0) -> Any:
        """Return any data without secrets: by name, by known value and by look; long lists are cut."""
        if isinstance(value, Mapping):
            if depth >= _MAX_DEPTH:
                return "(nested too deeply)"
            return {
                self.text(str(key)): self._named(str(key), item, depth)
                for key, item in value.items()
                if not str(key).startswith("_ansible")
            }
        if isinstance(value, list | tuple | set | frozenset):
            if depth >= _MAX_DEPTH:
                return "(nested too deeply)"
            items = list(value)
            kept = [self.value(item, depth=depth + 1) for item in items[:MAX_ITEMS]]
            return kept if len(items) <= MAX_ITEMS else [*kept, f"({len(items) - MAX_ITEMS} more)"]
        if value is None or isinstance(value, bool | int | float):
            return value
        return self.text(str(value))

    def diff(self, diffs: Any) -> list[dict[str, str]]:
        """Return redacted unified diffs from what a module gave as ``diff`` (a mapping or a list)."""
        result = []
        for entry in diffs if isinstance(diffs, list) else [diffs]:
            if not isinstance(entry, Mapping):
                continue
            text = self._one_diff(entry)
            if text:
                header = entry.get("after_header") or entry.get("before_header") or ""
                result.append({"of": self.text(str(header), 300), "text": text})
        return result

    def _named(self, name: str, item: Any, depth: int) -> Any:
        if is_secret_name(name) and not isinstance(item, bool) and item not in (None, ""):
            return MASK
        return self.value(item, depth=depth + 1)

    def _one_diff(self, entry: Mapping[str, Any]) -> str:
        if "prepared" in entry:
            return self.text(str(entry["prepared"]), MAX_DIFF)
        if "before" not in entry and "after" not in entry:
            return ""
        before, after = (self._side(entry.get(side)) for side in ("before", "after"))
        lines = difflib.unified_diff(
            before.splitlines(), after.splitlines(), "before", "after", "", "", 1, ""
        )
        return self.text("\n".join(lines), MAX_DIFF)

    def _side(self, side: Any) -> str:
        """One side as text whose secrets are gone *before* the diff, so that it still shows line by line."""
        if side is None:
            return ""
        if isinstance(side, Mapping | list | tuple):
            return "\n".join(_lines(self.value(side)))
        return self.text(str(side), _MAX_SEARCHED)


def _spellings(text: str) -> set[str]:
    """The forms in which a secret turns up in URLs, JSON and headers."""
    encoded = text.encode("utf-8", "replace")
    return {
        urllib.parse.quote(text, safe=""),
        json.dumps(text)[1:-1],
        base64.b64encode(encoded).decode("ascii"),
    }


def is_secret_name(name: str) -> bool:
    """Say whether a variable or option of this name holds a secret."""
    return _SECRET_NAME.search(name.replace("-", "_")) is not None


def secret_values(variables: Mapping[str, Any]) -> set[str]:
    """Return the text values in ``variables`` whose own or enclosing name is that of a secret.

    Templates (``{{ … }}``) are no values and are left out.
    """
    found: set[str] = set()
    _collect(variables, named=False, found=found, depth=0)
    return found


def _collect(value: Any, *, named: bool, found: set[str], depth: int) -> None:
    if depth > _MAX_DEPTH:
        return
    if isinstance(value, Mapping):
        for key, item in value.items():
            _collect(item, named=named or is_secret_name(str(key)), found=found, depth=depth + 1)
    elif isinstance(value, list | tuple):
        for item in value:
            _collect(item, named=named, found=found, depth=depth + 1)
    elif named and value is not None and not isinstance(value, bool):
        text = str(value)
        if "{{" not in text:
            found.add(text)


def _lines(value: Any, prefix: str = "") -> list[str]:
    """Flatten data to ``path: value`` lines, so that a diff of it is readable."""
    if isinstance(value, Mapping) and value:
        return [
            line for key in sorted(value) for line in _lines(value[key], f"{prefix}.{key}" if prefix else key)
        ]
    if isinstance(value, list | tuple) and value:
        return [line for index, item in enumerate(value) for line in _lines(item, f"{prefix}[{index}]")]
    return [f"{prefix}: {value}"]
