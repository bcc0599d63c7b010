"""Numbers, times and tables as text for the picture of the coverage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from html import escape


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose last column is a number."""

    def cells(tag: str, texts: Sequence[str]) -> str:
        marks = [""] * (len(texts) - 1) + [' class="n"']
        return "".join(
            f"<{tag}{mark}>{escape(text)}</{tag}>" for mark, text in zip(marks, texts, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><tr>{cells('th', head)}</tr>{body}</table>"


def percent(part: int, whole: int) -> str:
    """Return a share in per cent, rounded down: it is 100 only when nothing is missing."""
    return f"{10000 * part // whole / 100:.2f} %" if whole else "-"


def length(step: timedelta) -> str:
    """Return a length of time in its largest whole unit."""
    minutes = step // timedelta(minutes=1)
    for name, size in (("day", 1440), ("hour", 60)):
        if minutes % size == 0:
            return plural(minutes // size, name)
    return f"{minutes} minutes"


def minute(moment: datetime) -> str:
    """Return a moment to the minute."""
    return f"{moment:%Y-%m-%d %H:%M}"


def second(moment: datetime) -> str:
    """Return a moment to the second."""
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def plural(count: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def short(name: str) -> str:
    """Return a name that fits beside a strip."""
    return name if len(name) <= 26 else name[:25] + "…"
