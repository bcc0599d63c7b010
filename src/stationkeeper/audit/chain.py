"""Append to the audit chain of a control node, and ask it what it holds.

Every record carries the hash of the one before it and a signature. Several processes append under one file
lock; each append is on the disk (fsync) before it returns. The file ``head`` repeats the last position with a
signature of its own, so that a chain that was cut off at its end is found.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from stationkeeper.audit import identity, keys, record
from stationkeeper.audit.paths import AuditPaths

OPENING = frozenset({"START"})
CLOSING = frozenset({"END", "ABORTED"})
# A run in another container cannot be seen; after this time it is taken for dead.
_UNSEEN_LIMIT = timedelta(hours=24)


class ChainError(Exception):
    """The chain cannot be appended to; the message says why and what to do."""


@dataclass
class Head:
    """Where the chain ends, and which runs have a START but no end."""

    chain: str
    seq: int = 0
    hash: str = record.GENESIS
    size: int = 0
    open: dict[str, dict[str, Any]] = field(default_factory=dict)

    def dump(self, signer: keys.Signer) -> bytes:
        """Return the signed bytes of the head file."""
        body: dict[str, Any] = {
            "v": record.VERSION,
            "chain": self.chain,
            "seq": self.seq,
            "hash": self.hash,
            "size": self.size,
            "open": self.open,
            "key": signer.key_id,
        }
        body["sig"] = signer.sign(record.head_statement(body))
        return record.canonical(body) + b"\n"


def load_head(path: Path, ring: keys.KeyRing) -> Head | None:
    """Return the head, None where there is no file. Raises ChainError when it is damaged or not signed."""
    try:
        return parse_head(path.read_bytes(), ring)
    except FileNotFoundError:
        return None


def parse_head(content: bytes, ring: keys.KeyRing) -> Head:
    """Return the head from its bytes. Raises ChainError when it is damaged or not signed by a known key."""
    try:
        body = json.loads(content)
        head = Head(body["chain"], body["seq"], body["hash"], body["size"], body["open"])
        signed = ring.verifies(body["key"], body["sig"], record.head_statement(body))
    except (ValueError, KeyError, TypeError):
        raise ChainError("the head of the audit chain is damaged") from None
    if not signed:
        raise ChainError("the head of the audit chain is not signed by a known key")
    return head


class Session:
    """Records to be appended together, under the lock. Made by ``Chain.session``."""

    def __init__(self, head: Head, signer: keys.Signer) -> None:
        self.head = head
        self.records: list[dict[str, Any]] = []
        self.lines: list[bytes] = []
        self._signer = signer
        self._node = identity.node()

    def add(
        self, event: str, run_id: str, data: Mapping[str, Any], *, at: datetime | None = None
    ) -> dict[str, Any]:
        """Add one record and return it; it is written when the session ends."""
        entry: dict[str, Any] = {
            "v": record.VERSION,
            "chain": self.head.chain,
            "seq": self.head.seq + 1,
            "at": record.timestamp(at),
            "node": self._node,
            "run_id": run_id,
            "event": event,
            "data": record.normalise(data),
            "prev": self.head.hash,
            "key": self._signer.key_id,
        }
        entry["hash"] = record.digest(entry)
        entry["sig"] = self._signer.sign(record.record_statement(entry["hash"]))
        line = record.canonical(entry) + b"\n"
        note_open_run(self.head.open, entry, self.head.size, len(line))
        self.head.seq, self.head.hash = entry["seq"], entry["hash"]
        self.head.size += len(line)
        self.records.append(entry)
        self.lines.append(line)
        return entry


def note_open_run(
    runs: dict[str, dict[str, Any]], entry: Mapping[str, Any], offset: int, length: int
) -> None:
    """Keep the table of runs that have started and not ended."""
    if entry["event"] in OPENING:
        runs[entry["run_id"]] = {
            "seq": entry["seq"],
            "at": entry["at"],
            "offset": offset,
            "length": length,
            "process": entry["data"].get("process") or {},
        }
    elif entry["event"] in CLOSING:
        runs.pop(entry["run_id"], None)


class Chain:
    """The audit chain in one folder. Not for use by several threads at once."""

    def __init__(self, paths: AuditPaths | None = None, *, lock_timeout_s: float = 5.0) -> None:
        self.paths = paths or AuditPaths.default()
        self.lock_timeout_s = lock_timeout_s
        self._signer: keys.Signer | None = None
        self._written_head: tuple[bytes, Head] | None = None

    def append(
        self, event: str, run_id: str, data: Mapping[str, Any], *, at: datetime | None = None
    ) -> dict[str, Any]:
        """Write one record and return it. Raises ChainError or OSError when it is not on the disk."""
        with self.session() as session:
            return session.add(event, run_id, data, at=at)

    def abort_gone_runs(self, session: Session) -> list[str]:
        """Add ABORTED for each run with a START and no end whose process is gone; return their ids."""
        aborted = []
        for run_id, run in list(session.head.open.items()):
            state = identity.liveness(run["process"])
            age = datetime.now(UTC) - datetime.fromisoformat(run["at"])
            if state == "alive" or (state == "unknown" and age < _UNSEEN_LIMIT):
                continue
            data = {
                "started_at": run["at"],
                "started_seq": run["seq"],
                "process": run["process"],
                "reason": f"the run has no END and its process {run['process'].get('pid')} is {state}",
            }
            session.add("ABORTED", run_id, data)
            aborted.append(run_id)
        return aborted

    def archive(self, reason: str) -> Path:
        """Put the chain away, as it is, and start a new one whose first record names it.

        This is the way on after a chain was damaged, and the way to close a year. Raises ChainError when
        there is nothing to put away or a run is under way, and OSError.
        """
        with self.locked():
            if not self.paths.chain.exists() and not self.paths.head.exists():
                raise ChainError(f"there is no chain in {self.paths.directory}")
            self._refuse_live_runs()
            self.paths.archive.mkdir(mode=0o700, exist_ok=True)
            target = self.paths.archive / f"chain-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.jsonl"
            content = self.paths.chain.read_bytes() if self.paths.chain.exists() else b""
            previous = {
                "file": target.name,
                "sha256": hashlib.sha256(content).hexdigest(),
                "bytes": len(content),
                "reason": reason,
            }
            for source, suffix in ((self.paths.chain, ".jsonl"), (self.paths.head, ".head")):
                if source.exists():
                    source.rename(target.with_suffix(suffix))
            self._written_head = None
            with self._unlocked_session(previous=previous):
                pass
            return target

    def _refuse_live_runs(self) -> None:
        try:
            head = load_head(self.paths.head, keys.KeyRing.load(self.paths.keys))
        except (ChainError, keys.KeyFileError):
            # A damaged head is a reason to archive, and says nothing about runs.
            return
        live = [
            run_id
            for run_id, run in (head.open if head else {}).items()
            if identity.liveness(run["process"]) == "alive"
        ]
        if live:
            raise ChainError(f"runs are under way and would lose their START: {', '.join(live)}")

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Hold the lock, collect records, and write them at the end with one fsync."""
        self.paths.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.locked(), self._unlocked_session() as session:
            yield session

    @contextmanager
    def _unlocked_session(self, **first: Any) -> Iterator[Session]:
        """A session for a caller that holds the lock; ``first`` goes into the first record of a new chain."""
        signer = self._signer or keys.load_or_create(self.paths.private_key, self.paths.keys)
        self._signer = signer
        head, notes = self._position()
        start = head.size
        session = Session(head, signer)
        if head.seq == 0:
            session.add("CHAIN_START", "", {"public_key": signer.public_text, **notes, **first})
        elif notes:
            session.add("RECOVERED", "", notes)
        yield session
        if session.lines:
            self._write(start, b"".join(session.lines))
            try:
                self._write_head(session.head, signer)
            except OSError:
                # The caller hears that nothing was recorded, so nothing may stay.
                os.truncate(self.paths.chain, start)
                raise

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the chain's lock. Raises ChainError when another process keeps it too long."""
        descriptor = os.open(self.paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + self.lock_timeout_s
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise ChainError(f"another process keeps {self.paths.lock} locked") from None
                    time.sleep(0.002)
            yield
        finally:
            os.close(descriptor)

    def _position(self) -> tuple[Head, dict[str, Any]]:
        """Return where to append, and what had to be repaired to get there."""
        size = self.paths.chain.stat().st_size if self.paths.chain.exists() else 0
        try:
            content = self.paths.head.read_bytes()
        except FileNotFoundError:
            content = b""
        if self._written_head and self._written_head[0] == content and self._written_head[1].size == size:
            known = self._written_head[1]
            return Head(known.chain, known.seq, known.hash, known.size, dict(known.open)), {}
        notes: dict[str, Any] = {}
        head = None
        ring = keys.KeyRing.load(self.paths.keys)
        if content:
            try:
                head = parse_head(content, ring)
            except ChainError as error:
                notes["head"] = str(error)
        elif size:
            notes["head"] = "the head of the audit chain was missing"
        head = head or Head(chain="")
        if size < head.size:
            raise ChainError(
                f"{self.paths.chain} is shorter than its signed head says: records were removed. "
                "Run `stationkeeper audit verify`, keep the evidence, then `stationkeeper audit archive`"
            )
        if size > head.size:
            notes.update(self._adopt(head, ring, size))
        head.chain = head.chain or str(uuid.uuid4())
        return head, notes

    def _adopt(self, head: Head, ring: keys.KeyRing, size: int) -> dict[str, Any]:
        """Take over records that were written after the head: the writer died in between."""
        adopted, torn = 0, b""
        with self.paths.chain.open("rb") as stream:
            stream.seek(head.size)
            for line in stream:
                if not line.endswith(b"\n"):
                    torn = line
                    break
                problem = _check_next(head, ring, line)
                if problem:
                    raise ChainError(
                        f"{self.paths.chain}: the record after {head.seq} {problem}. "
                        "Run `stationkeeper audit verify`"
                    )
                adopted += 1
        notes: dict[str, Any] = {"adopted_records": adopted}
        if torn:
            checksum = hashlib.sha256(torn).hexdigest()
            (self.paths.directory / f"torn-{checksum[:12]}").write_bytes(torn)
            with self.paths.chain.open("r+b") as stream:
                stream.truncate(size - len(torn))
                os.fsync(stream.fileno())
            notes |= {"torn_bytes": len(torn), "torn_sha256": checksum}
        return notes

    def _write(self, offset: int, content: bytes) -> None:
        descriptor = os.open(self.paths.chain, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            position = offset
            try:
                while position - offset < len(content):
                    position += os.pwrite(descriptor, content[position - offset :], position)
                os.fsync(descriptor)
            except OSError:
                # A full disk leaves half a record; without it the chain is as valid as before.
                os.ftruncate(descriptor, offset)
                raise
        finally:
            os.close(descriptor)

    def _write_head(self, head: Head, signer: keys.Signer) -> None:
        # In place and without fsync, since a rename makes the next fsync of the chain four times as slow.
        # A head that a power cut left old, damaged or missing is repaired from the chain itself.
        content = head.dump(signer)
        descriptor = os.open(self.paths.head, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(descriptor, content, 0)
            if os.fstat(descriptor).st_size > len(content):
                os.ftruncate(descriptor, len(content))
        finally:
            os.close(descriptor)
        self._written_head = (content, Head(head.chain, head.seq, head.hash, head.size, dict(head.open)))


def _check_next(head: Head, ring: keys.KeyRing, line: bytes) -> str | None:
    """Move the head over one more line; return what is wrong with it, if anything."""
    try:
        entry = record.parse(line)
    except record.RecordError as error:
        return str(error)
    first = head.seq == 0
    problem = None
    if entry["seq"] != head.seq + 1 or entry["prev"] != head.hash:
        problem = "does not follow it"
    elif not first and entry["chain"] != head.chain:
        problem = "belongs to another chain"
    elif record.digest(entry) != entry["hash"]:
        problem = "was changed"
    elif not ring.verifies(entry["key"], entry["sig"], record.record_statement(entry["hash"])):
        problem = "has no valid signature"
    if problem is None:
        note_open_run(head.open, entry, head.size, len(line))
        head.chain, head.seq, head.hash = entry["chain"], entry["seq"], entry["hash"]
        head.size += len(line)
    return problem


def chain_id(path: Path) -> str:
    """Return the id of the chain in a file, from its first record. Raises ChainError, OSError."""
    with path.open("rb") as stream:
        for line in stream:
            try:
                return str(record.parse(line)["chain"])
            except record.RecordError:
                continue
    raise ChainError(f"{path} holds no record")


def append_event(run_id: str, event: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """Append to this control node's chain, for example TAKEOVER. Raises ChainError, KeyFileError, OSError."""
    return Chain().append(event, run_id, data)


def run_is_recorded(run_id: str, paths: AuditPaths | None = None) -> bool:
    """Say whether the chain holds a signed START of this run that has not ended. Never raises."""
    paths = paths or AuditPaths.default()
    # Another process may be writing the head just now, and it is read without the lock.
    for _ in range(5):
        try:
            return _holds_start(run_id, paths)
        except ChainError:
            time.sleep(0.01)
        except (OSError, keys.KeyFileError, record.RecordError):
            return False
    return False


def _holds_start(run_id: str, paths: AuditPaths) -> bool:
    ring = keys.KeyRing.load(paths.keys)
    head = load_head(paths.head, ring)
    run = head.open.get(run_id) if head else None
    if run is None:
        return False
    with paths.chain.open("rb") as stream:
        stream.seek(run["offset"])
        entry = record.parse(stream.read(run["length"]))
    return bool(
        entry["event"] in OPENING
        and entry["run_id"] == run_id
        and record.digest(entry) == entry["hash"]
        and ring.verifies(entry["key"], entry["sig"], record.record_statement(entry["hash"]))
    )
