"""One audit record: its canonical bytes, its hash, its signature."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

VERSION = 1
GENESIS = "0" * 64
FIELDS = frozenset(
    {"v", "chain", "seq", "at", "node", "run_id", "event", "data", "prev", "key", "hash", "sig"}
)
# A signature over one kind of statement must not be usable as another kind.
_RECORD_PURPOSE = b"stationkeeper-audit-record-v1\n"
_HEAD_PURPOSE = b"stationkeeper-audit-head-v1\n"


class RecordError(ValueError):
    """A line is not an audit record; the message says why."""


def normalise(value: Any) -> Any:
    """Return ``value`` as plain JSON types that every reader writes alike.

    Fractions become text (``1.5`` is ``"1.5"``), since JSON libraries differ in how they print them; NUL and
    unpaired surrogates, which PostgreSQL refuses in ``jsonb``, become U+FFFD. Anything unknown becomes text.
    """
    result: Any
    if value is None or isinstance(value, bool):
        result = value
    elif isinstance(value, str):
        result = value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")
    elif isinstance(value, int):
        result = int(value)
    elif isinstance(value, float):
        result = repr(float(value)) if math.isfinite(value) else str(value)
    elif isinstance(value, Decimal):
        result = str(value)
    elif isinstance(value, datetime):
        result = timestamp(value)
    elif isinstance(value, Mapping):
        result = {str(normalise(str(key))): normalise(item) for key, item in value.items()}
    elif isinstance(value, bytes | bytearray):
        result = normalise(bytes(value).decode("utf-8", "replace"))
    elif isinstance(value, list | tuple):
        result = [normalise(item) for item in value]
    elif isinstance(value, set | frozenset):
        result = sorted((normalise(item) for item in value), key=str)
    else:
        result = normalise(str(value))
    return result


def timestamp(moment: datetime | None = None) -> str:
    """Return a moment (default: now) as RFC 3339 in UTC with microseconds. Raises ValueError if naive."""
    moment = moment or datetime.now(UTC)
    if moment.tzinfo is None:
        raise ValueError(f"{moment.isoformat()} has no offset from UTC")
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def canonical(value: Any) -> bytes:
    """Return the one JSON text of normalised data: sorted keys, no spaces, ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def digest(record: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) of a record without its hash and signature."""
    body = {key: value for key, value in record.items() if key not in {"hash", "sig"}}
    return hashlib.sha256(canonical(body)).hexdigest()


def record_statement(record_hash: str) -> bytes:
    """Return the bytes that the signature of a record covers."""
    return _RECORD_PURPOSE + record_hash.encode("ascii")


def head_statement(head: Mapping[str, Any]) -> bytes:
    """Return the bytes that the signature of the head covers: all of it but the signature."""
    return _HEAD_PURPOSE + canonical({key: value for key, value in head.items() if key != "sig"})


def parse(line: bytes) -> dict[str, Any]:
    """Return the record on one line. Raises RecordError when it is none."""
    try:
        record = json.loads(line)
    except ValueError:
        raise RecordError("is not JSON") from None
    if not isinstance(record, dict):
        raise RecordError("is not a JSON object")
    if set(record) != FIELDS:
        missing, extra = sorted(FIELDS - set(record)), sorted(set(record) - FIELDS)
        raise RecordError(f"has the wrong fields (missing {missing}, unknown {extra})")
    if not isinstance(record["seq"], int) or isinstance(record["seq"], bool) or record["seq"] < 1:
        raise RecordError("has no valid sequence number")
    text = ("chain", "at", "node", "run_id", "event", "prev", "key", "hash", "sig")
    if not all(isinstance(record[name], str) for name in text) or not isinstance(record["data"], dict):
        raise RecordError("has a field of the wrong type")
    return record
