"""A thousand tampered copies of one audit chain: each is found, and the record is named."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stationkeeper.audit import identity, record
from stationkeeper.audit.chain import Chain
from stationkeeper.audit.keys import Signer, load_or_create
from stationkeeper.audit.paths import AuditPaths
from stationkeeper.audit.verify import StoredRow, verify

COPIES = 1000
CHANGES = 40


@dataclass(frozen=True)
class Tampered:
    """Lines of a tampered chain, and the records of which at least one must be named."""

    lines: list[bytes]
    named: set[int]


@dataclass(frozen=True)
class Original:
    """The chain that is tampered with, and two keys: its own and a stranger's."""

    paths: AuditPaths
    lines: list[bytes]
    own: Signer
    stranger: Signer


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    folder = tmp_path_factory.mktemp("original")
    paths = AuditPaths(folder / "audit")
    chain = Chain(paths)
    start = {"process": identity.process_identity(), "playbook": "p.yml"}
    chain.append("START", "run-1", start)
    with chain.session() as session:
        for number in range(CHANGES):
            session.add("CHANGE", "run-1", {"task": f"task {number}", "outcome": "changed"})
    chain.append("END", "run-1", {"outcome": "ok"})
    lines = paths.chain.read_bytes().splitlines(keepends=True)
    own = load_or_create(paths.private_key, paths.keys)
    (folder / "other").mkdir()
    return Original(paths, lines, own, load_or_create(folder / "other.pem", folder / "other"))


def flip_a_bit(chance: random.Random, original: Original) -> Tampered:
    at = chance.randrange(len(original.lines))
    line = bytearray(original.lines[at])
    line[chance.randrange(len(line))] ^= 1 << chance.randrange(8)
    # A line end that is gone or new makes one line of two, or two of one.
    joined = b"".join([*original.lines[:at], bytes(line), *original.lines[at + 1 :]])
    return Tampered(joined.splitlines(keepends=True), {at + 1, at + 2})


def delete(chance: random.Random, original: Original) -> Tampered:
    first = chance.randrange(len(original.lines))
    last = min(len(original.lines), first + chance.randint(1, 5))
    return Tampered(original.lines[:first] + original.lines[last:], {first + 1})


def swap(chance: random.Random, original: Original) -> Tampered:
    one, other = sorted(chance.sample(range(len(original.lines)), 2))
    lines = list(original.lines)
    lines[one], lines[other] = lines[other], lines[one]
    return Tampered(lines, set(range(one + 1, other + 2)))


def repeat(chance: random.Random, original: Original) -> Tampered:
    at, to = chance.randrange(len(original.lines)), chance.randint(0, len(original.lines))
    return Tampered([*original.lines[:to], original.lines[at], *original.lines[to:]], {at + 1})


def cut_off(chance: random.Random, original: Original) -> Tampered:
    whole = b"".join(original.lines)
    kept = whole[: chance.randrange(len(whole))].splitlines(keepends=True)
    complete = len([line for line in kept if line.endswith(b"\n")])
    return Tampered(kept, {complete + 1})


def forge(chance: random.Random, original: Original) -> Tampered:
    """Another content with a right hash, and all hashes after it made anew, but no right signature."""
    at = chance.randrange(len(original.lines))
    return _rewritten(original, at, chance.choice([original.stranger, None]))


def forge_with_the_name_of_the_key(chance: random.Random, original: Original) -> Tampered:
    """As before, signed by a stranger's key under the name of the real one."""
    at = chance.randrange(len(original.lines))
    return _rewritten(original, at, original.stranger, key=original.own.key_id)


def add(chance: random.Random, original: Original) -> Tampered:
    """One more record at the end, which fits but for its signature."""
    last = record.parse(original.lines[-1])
    entry = {**last, "seq": last["seq"] + 1, "prev": last["hash"], "data": {"n": chance.random()}}
    return Tampered([*original.lines, _signed(entry, original.stranger)], {entry["seq"]})


KINDS: list[Callable[[random.Random, Original], Tampered]] = [
    flip_a_bit, delete, swap, repeat, cut_off, forge, forge_with_the_name_of_the_key, add,
]  # fmt: skip


def _rewritten(original: Original, at: int, signer: Signer | None, key: str | None = None) -> Tampered:
    lines = original.lines[:at]
    before = record.parse(lines[-1])["hash"] if lines else record.GENESIS
    for number, line in enumerate(original.lines[at:]):
        entry = record.parse(line) | {"prev": before}
        if number == 0:
            entry["data"] = {"task": "somebody else's"}
        lines.append(_signed(entry, signer, key))
        before = record.parse(lines[-1])["hash"]
    return Tampered(lines, {at + 1})


def _signed(entry: dict[str, Any], signer: Signer | None, key: str | None = None) -> bytes:
    if signer:
        entry = {**entry, "key": key or signer.key_id}
    entry["hash"] = record.digest(entry)
    if signer:
        entry["sig"] = signer.sign(record.record_statement(entry["hash"]))
    return record.canonical(entry) + b"\n"


def test_a_thousand_tampered_copies_are_all_found(original: Original, tmp_path: Path) -> None:
    chance = random.Random(20261122)
    shutil.copytree(original.paths.keys, tmp_path / "keys")
    shutil.copy(original.paths.head, tmp_path)
    copy = tmp_path / "chain.jsonl"
    assert verify(original.paths.chain, tmp_path / "keys").ok
    missed = []
    for number in range(COPIES):
        kind = KINDS[number % len(KINDS)]
        tampered = kind(chance, original)
        copy.write_bytes(b"".join(tampered.lines))
        report = verify(copy, tmp_path / "keys")
        if report.ok or not tampered.named & {finding.seq for finding in report.findings}:
            missed.append(f"{number} {kind.__name__}: {sorted(tampered.named)} in {report.findings}")
    assert missed == []


def test_a_chain_and_its_head_put_back_together_are_found_by_the_copies(
    original: Original, tmp_path: Path
) -> None:
    paths = AuditPaths(tmp_path / "audit")
    chain = Chain(paths)
    for number in range(5):
        chain.append("CHANGE", "run-1", {"task": f"task {number}"})
    earlier = {path: path.read_bytes() for path in (paths.chain, paths.head)}
    chain.append("CHANGE", "run-1", {"task": "what somebody regrets"})
    entries = [record.parse(line) for line in paths.chain.read_bytes().splitlines(keepends=True)]
    rows = [
        StoredRow(entry["seq"], entry["hash"], record.canonical(entry).decode("ascii")) for entry in entries
    ]
    for path, content in earlier.items():
        path.write_bytes(content)
    assert verify(paths.chain, paths.keys).ok
    found = verify(paths.chain, paths.keys, rows=rows).findings
    assert [(finding.kind, finding.seq) for finding in found] == [("truncated", 7)]
