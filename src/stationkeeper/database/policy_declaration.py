"""What a hypertable shall have: retention, compression, a rollup that follows its rows.

Standard library only: Ansible ships this file to the host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_NAME = re.compile(r"([a-z_][a-z0-9_$]*)\.([a-z_][a-z0-9_$]*)")
_ORDER = re.compile(r"([a-z_][a-z0-9_$]*)(?: +(asc|desc))?", re.IGNORECASE)


class PolicyError(Exception):
    """A declaration is wrong or cannot be met; the message names it. Nothing was changed."""


@dataclass(frozen=True)
class Worker:
    """What does the work where no policy does: a function of the database that a systemd timer calls."""

    function: str
    timer: str


@dataclass(frozen=True)
class Retention:
    """Rows older than ``drop_after`` go, in whole chunks. ``by`` is ``auto``, ``policy`` or ``timer``."""

    drop_after: str
    by: str = "auto"
    worker: Worker | None = None


@dataclass(frozen=True)
class Compression:
    """Chunks older than ``compress_after`` are compressed. ``order_by`` has ``column`` or ``column DESC``."""

    compress_after: str
    segment_by: tuple[str, ...] = ()
    order_by: tuple[str, ...] = ()
    required: bool = False


@dataclass(frozen=True)
class Refresh:
    """The rollup ``view`` follows its rows, from ``start_offset`` to ``end_offset`` before now."""

    view: str
    start_offset: str
    end_offset: str
    schedule_interval: str
    worker: Worker | None = None


@dataclass(frozen=True)
class Declaration:
    """What a hypertable shall have. What is None stays as it is; ``absent`` names policies to remove."""

    hypertable: str
    retention: Retention | None = None
    compression: Compression | None = None
    refresh: Refresh | None = None
    absent: frozenset[str] = frozenset()

    def check(self) -> None:
        """Raise PolicyError for what can be told to be wrong without a database."""
        split_name(self.hypertable)
        for what in self.absent:
            if getattr(self, what) is not None:
                raise PolicyError(f"{self.hypertable}: {what} is declared and absent at the same time")
        if self.refresh:
            split_name(self.refresh.view)
        if self.compression:
            if not self.compression.order_by:
                raise PolicyError(
                    f"{self.hypertable}: compression needs order_by, with the column of time in it"
                )
            for entry in (*self.compression.order_by, *self.compression.segment_by):
                order(entry)


def split_name(name: str) -> tuple[str, str]:
    """Return schema and table. Raises PolicyError for anything but ``schema.table`` in lower case."""
    match = _NAME.fullmatch(name)
    if not match:
        raise PolicyError(f"{name!r} is not a name of the form schema.table")
    return match[1], match[2]


def order(entry: str) -> tuple[str, bool]:
    """Return column and whether it descends. Raises PolicyError."""
    match = _ORDER.fullmatch(entry.strip())
    if not match:
        raise PolicyError(f"order_by {entry!r} is not of the form `column` or `column DESC`")
    return match[1], (match[2] or "").lower() == "desc"
