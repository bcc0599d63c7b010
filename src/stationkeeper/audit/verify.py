"""Prove that an audit chain is whole, or say exactly what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stationkeeper.audit import identity, keys, record
from stationkeeper.audit.chain import CLOSING, OPENING, ChainError, Head, load_head


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. ``kind`` is a fixed word, ``seq`` a record number where one is meant."""

    kind: str
    message: str
    seq: int | None = None


@dataclass(frozen=True)
class OpenRun:
    """A run with a START and no END or ABORTED. ``state`` is alive, gone or unknown."""

    run_id: str
    started_at: str
    playbook: str
    state: str


@dataclass
class Report:
    """What the verification found."""

    chain: str = ""
    records: int = 0
    first_at: str = ""
    last_at: str = ""
    runs: int = 0
    aborted: int = 0
    findings: list[Finding] = field(default_factory=list)
    open_runs: list[OpenRun] = field(default_factory=list)
    compared: int | None = None
    not_shipped: int | None = None

    @property
    def ok(self) -> bool:
        """True when nothing is wrong and no run that has died is without an end."""
        return not self.findings and all(run.state == "alive" for run in self.open_runs)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return {"ok": self.ok, **asdict(self)}

    def add(self, kind: str, message: str, seq: int | None = None) -> None:
        """Note a finding."""
        self.findings.append(Finding(kind, message, seq))


@dataclass(frozen=True)
class StoredRow:
    """One row of ``ops.audit``."""

    seq: int
    hash: str
    record: str


def verify(
    chain_path: Path,
    key_folder: Path,
    *,
    head_path: Path | None = None,
    rows: Sequence[StoredRow] | None = None,
    part: bool = False,
) -> Report:
    """Check every record, the links between them, the head, and the database's copies where given.

    ``head_path`` defaults to the file ``head`` beside the chain. A ``part`` of a chain begins where it
    begins, has no head, and may have ends of runs that started before it. Raises KeyFileError for a damaged
    public key and OSError when a file that exists cannot be read.
    """
    report = Report()
    ring = keys.KeyRing.load(key_folder)
    head = None if part else _load_head(head_path or chain_path.with_name("head"), ring, report)
    lines = chain_path.read_bytes().splitlines(keepends=True) if chain_path.exists() else []
    records = list(_read(lines, report))
    if not records:
        report.add("missing", "the chain is empty or its file is not there")
    _check_each(records, ring, report)
    first = records[0]["seq"] if part and records else 1
    by_seq = _check_order(records, first, report)
    _check_links(by_seq, report)
    _check_head(head, by_seq, report)
    if rows is not None:
        _compare(rows, by_seq, report)
    _list_runs(records, report, part)
    if records:
        report.chain, report.records = records[0]["chain"], len(records)
        report.first_at, report.last_at = records[0]["at"], records[-1]["at"]
    return report


def _load_head(path: Path, ring: keys.KeyRing, report: Report) -> Head | None:
    try:
        head = load_head(path, ring)
    except ChainError as error:
        report.add("head", str(error))
        return None
    if head is None:
        report.add("head", f"{path} is missing: records may have been cut off at the end")
    return head


def _read(lines: Iterable[bytes], report: Report) -> Iterable[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        if not line.endswith(b"\n"):
            report.add("malformed", f"line {number} is incomplete (a write was interrupted, or it was cut)")
            continue
        try:
            entry = record.parse(line)
        except record.RecordError as error:
            report.add("malformed", f"line {number} {error}")
            continue
        if record.canonical(entry) + b"\n" != line:
            report.add("changed", f"record {entry['seq']} is not written in canonical form", entry["seq"])
        yield entry


def _check_each(records: Sequence[Mapping[str, Any]], ring: keys.KeyRing, report: Report) -> None:
    for entry in records:
        check_signature(entry, ring, report)
        if entry["chain"] != records[0]["chain"]:
            report.add("foreign", f"record {entry['seq']} belongs to another chain", entry["seq"])


def check_signature(entry: Mapping[str, Any], ring: keys.KeyRing, report: Report) -> None:
    """Find a record that is not what was signed, or that nobody trusted has signed."""
    seq = entry["seq"]
    if record.digest(entry) != entry["hash"]:
        report.add("changed", f"record {seq} was changed: its hash does not fit", seq)
    elif entry["key"] not in ring:
        report.add("key", f"record {seq} is signed by the unknown key {entry['key'][:32]!r}", seq)
    elif not ring.verifies(entry["key"], entry["sig"], record.record_statement(entry["hash"])):
        report.add("signature", f"record {seq} has a wrong signature", seq)


def _check_order(
    records: Sequence[dict[str, Any]], first_seq: int, report: Report
) -> dict[int, dict[str, Any]]:
    """Find duplicated, reordered and missing numbers; return the first record of each number."""
    by_seq: dict[int, dict[str, Any]] = {}
    highest = 0
    for entry in records:
        seq = entry["seq"]
        if seq in by_seq:
            report.add("duplicated", f"record {seq} is there more than once", seq)
            continue
        if seq < highest:
            report.add("reordered", f"record {seq} stands after record {highest}", seq)
        highest = max(highest, seq)
        by_seq[seq] = entry
    for first, last in _ranges(sorted(set(range(first_seq, highest + 1)) - set(by_seq))):
        report.add("missing", f"{_records(first, last)} missing", first)
    return by_seq


def _check_links(by_seq: Mapping[int, Mapping[str, Any]], report: Report) -> None:
    for seq, entry in sorted(by_seq.items()):
        before = by_seq.get(seq - 1)
        expected = record.GENESIS if seq == 1 else before["hash"] if before else None
        if expected is not None and entry["prev"] != expected:
            report.add("link", f"record {seq} does not carry the hash of the record before it", seq)


def _check_head(head: Head | None, by_seq: Mapping[int, Mapping[str, Any]], report: Report) -> None:
    if head is None:
        return
    last = max(by_seq, default=0)
    if head.seq > last:
        report.add(
            "truncated",
            f"the head says that record {head.seq} was written, but the chain ends at {last}: "
            f"{_records(last + 1, head.seq)} missing",
            last + 1,
        )
    elif head.seq in by_seq and by_seq[head.seq]["hash"] != head.hash:
        report.add("head", f"record {head.seq} is not the one that the head was signed for", head.seq)


def _compare(rows: Sequence[StoredRow], by_seq: Mapping[int, Mapping[str, Any]], report: Report) -> None:
    last = max(by_seq, default=0)
    stored: dict[int, StoredRow] = {row.seq: row for row in rows}
    beyond = sorted(seq for seq in stored if seq > last)
    for first, final in _ranges(beyond):
        report.add("truncated", f"{_records(first, final)} in the database, but not in the chain", first)
    for seq, row in sorted(stored.items()):
        entry = by_seq.get(seq)
        if entry is None:
            continue
        if row.hash != entry["hash"] or row.record != record.canonical(entry).decode("ascii"):
            report.add("database", f"record {seq} differs from its copy in the database", seq)
    shipped = max(stored, default=0)
    for first, final in _ranges(sorted(seq for seq in by_seq if seq < shipped and seq not in stored)):
        report.add("database", f"{_records(first, final)} not in the database, though later ones are", first)
    report.compared = len(set(stored) & set(by_seq))
    report.not_shipped = sum(1 for seq in by_seq if seq > shipped)


def _list_runs(records: Sequence[Mapping[str, Any]], report: Report, part: bool) -> None:
    started: dict[str, Mapping[str, Any]] = {}
    for entry in records:
        if entry["event"] in OPENING:
            report.runs += 1
            started[entry["run_id"]] = entry
        elif entry["event"] in CLOSING:
            report.aborted += entry["event"] == "ABORTED"
            if started.pop(entry["run_id"], None) is None and not part:
                message = f"run {entry['run_id']} has {entry['event']} without a START"
                report.add("run", message, entry["seq"])
    if part:
        # Their ends may come after it.
        return
    for run_id, entry in started.items():
        process = entry["data"].get("process")
        state = identity.liveness(process) if isinstance(process, dict) else "gone"
        playbook = str(entry["data"].get("playbook", ""))
        report.open_runs.append(OpenRun(run_id, entry["at"], playbook, state))


def _ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Group sorted numbers to (first, last) runs."""
    result: list[tuple[int, int]] = []
    for number in numbers:
        if result and number == result[-1][1] + 1:
            result[-1] = (result[-1][0], number)
        else:
            result.append((number, number))
    return result


def _records(first: int, last: int) -> str:
    return f"record {first} is" if first == last else f"records {first} to {last} are"
