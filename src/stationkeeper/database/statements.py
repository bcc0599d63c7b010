"""Split a SQL script into its statements, so that an error can name the line it came from.

Standard library only: Ansible ships this file to the database host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_DOLLAR_QUOTE = re.compile(r"\$(?:[A-Za-z_]\w*)?\$")
_BLOCK_MARK = re.compile(r"/\*|\*/")
_FIRST_WORD = re.compile(r"\\?[A-Za-z]+")
_TRANSACTION_WORDS = frozenset(
    {"abort", "begin", "commit", "end", "prepare", "release", "rollback", "savepoint", "start"}
)


class ScriptError(ValueError):
    """The script cannot run statement by statement in one transaction; ``line`` says where."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True)
class Statement:
    """One statement: its text without the semicolon, and the line (from 1) of its first word."""

    text: str
    line: int


def split(script: str) -> list[Statement]:
    """Return the statements of ``script``; empty ones are left out.

    Understands comments (also nested ones), strings, quoted identifiers and dollar quotes; function bodies
    stand in dollar quotes (``BEGIN ATOMIC`` is not understood). Raises ScriptError for a quote or comment
    that never ends, for transaction control and for psql commands.
    """
    statements: list[Statement] = []
    first: int | None = None
    position = 0
    while position < len(script):
        character = script[position]
        if script.startswith("--", position):
            newline = script.find("\n", position)
            position = len(script) if newline < 0 else newline
        elif script.startswith("/*", position):
            position = _end_of_block_comment(script, position)
        elif character == ";":
            if first is not None:
                statements.append(_statement(script, first, position))
            first = None
            position += 1
        elif character.isspace():
            position += 1
        else:
            first = position if first is None else first
            position = _end_of_token(script, position)
    if first is not None:
        statements.append(_statement(script, first, len(script)))
    return statements


def _line(script: str, position: int) -> int:
    return script.count("\n", 0, position) + 1


def _end_of_block_comment(script: str, start: int) -> int:
    depth = 0
    for mark in _BLOCK_MARK.finditer(script, start):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return mark.end()
    raise ScriptError(_line(script, start), "a comment is not closed")


def _end_of_token(script: str, start: int) -> int:
    """Return where the quoted text at ``start`` ends, or the next position where nothing is quoted."""
    character = script[start]
    if character in "'\"":
        escapes = character == "'" and _has_escape_prefix(script, start)
        return _end_of_quote(script, start, escapes=escapes)
    if character == "$" and not _is_word(script, start - 1):
        quote = _DOLLAR_QUOTE.match(script, start)
        if quote:
            end = script.find(quote.group(), quote.end())
            if end < 0:
                raise ScriptError(_line(script, start), f"a quote {quote.group()} is not closed")
            return end + len(quote.group())
    return start + 1


def _is_word(script: str, position: int) -> bool:
    return position >= 0 and (script[position].isalnum() or script[position] in "_$")


def _has_escape_prefix(script: str, quote: int) -> bool:
    return quote > 0 and script[quote - 1] in "eE" and not _is_word(script, quote - 2)


def _end_of_quote(script: str, start: int, *, escapes: bool) -> int:
    quote = script[start]
    position = start + 1
    while position < len(script):
        if escapes and script[position] == "\\":
            position += 2
        elif script[position] != quote:
            position += 1
        elif script.startswith(quote, position + 1):
            position += 2
        else:
            return position + 1
    raise ScriptError(_line(script, start), f"a quote {quote} is not closed")


def _statement(script: str, first: int, end: int) -> Statement:
    text = script[first:end].rstrip()
    line = _line(script, first)
    word = _FIRST_WORD.match(text)
    if word and word.group().lower() in _TRANSACTION_WORDS:
        raise ScriptError(line, f"{word.group()}: a migration is one transaction and controls none itself")
    if text.startswith("\\"):
        raise ScriptError(line, f"{text.split()[0]} is a psql command, not SQL")
    return Statement(text, line)
