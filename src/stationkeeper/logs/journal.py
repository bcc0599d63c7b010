"""Reading a host's journal. Standard library only: Ansible ships this file with the modules that use it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any


class JournalError(Exception):
    """The journal cannot be read to its end; the message says why."""


def lines(program: str, hours: float, units: Iterable[str], fields: str, *more: str) -> Iterator[str]:
    """Yield the entries of the last ``hours`` as lines of JSON. Raises JournalError, also after some lines.

    ``program`` is journalctl; without ``units`` all are read.
    """
    if hours <= 0:
        raise JournalError("hours is more than 0")
    command = [program, "--quiet", "--no-pager", "--output=json", f"--output-fields={fields}", *more]
    command += [f"--since=-{hours * 3600:.0f}s", *(f"--unit={unit}" for unit in units)]
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as journal:
            assert journal.stdout is not None
            assert journal.stderr is not None
            yield from journal.stdout
            said = journal.stderr.read().strip()
    except OSError as error:
        raise JournalError(f"the journal cannot be read: {error}") from error
    # Where nothing fits what was looked for it ends with 1 and says nothing.
    if journal.returncode != 0 and (said or journal.returncode != 1):
        raise JournalError(
            f"the journal cannot be read: {said or f'journalctl ended with {journal.returncode}'}"
        )


def parsed(line: str) -> tuple[datetime, Mapping[str, Any]]:
    """Return the time of an entry and its fields. Raises ValueError for a line that is none."""
    try:
        entry = json.loads(line)
        return datetime.fromtimestamp(int(entry["__REALTIME_TIMESTAMP"]) / 1e6, UTC), entry
    except (KeyError, TypeError) as error:
        raise ValueError(f"no entry of a journal: {error}") from error


def message(entry: Mapping[str, Any]) -> str:
    """Return the text of an entry; the journal gives bytes that are no text as numbers, long ones not."""
    text = entry.get("MESSAGE")
    if isinstance(text, list):
        return bytes(one for one in text if isinstance(one, int)).decode(errors="replace")
    return str(text) if text is not None else "(too long for the journal's own answer)"
