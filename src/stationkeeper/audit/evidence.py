"""Evidence of a span of time: the records of it, and all that somebody else needs to check them.

A bundle is a tar.gz with one file of consecutive records for each chain, the public keys, and a signed
manifest with the checksum of every file. Whoever checks it should have the public keys from elsewhere.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stationkeeper.audit import keys, record
from stationkeeper.audit.paths import AuditPaths
from stationkeeper.audit.verify import Report, verify
from stationkeeper.files import write_atomically

MANIFEST = "manifest.json"
_PURPOSE = b"stationkeeper-audit-evidence-v1\n"


class EvidenceError(Exception):
    """A bundle cannot be made or is none; the message says why."""


def export(
    paths: AuditPaths, target: Path, since: datetime, until: datetime, about: Mapping[str, str]
) -> Report:
    """Write the bundle of all records from ``since`` to before ``until``, and return what checking it found.

    ``about`` says who asked for it and why. The caller holds the chain's lock. Raises EvidenceError when
    there is no record in that time, and OSError.
    """
    inside = lines_within(paths, since, until)
    files = {f"records/{name}": b"".join(lines) for name, lines in inside.items()}
    if not files:
        raise EvidenceError(f"no record between {record.timestamp(since)} and {record.timestamp(until)}")
    files |= {f"keys/{path.name}": path.read_bytes() for path in sorted(paths.keys.glob("*.pub"))}
    span = {"since": record.timestamp(since), "until": record.timestamp(until)}
    files[MANIFEST] = _manifest(paths, _hashes(files), about, span)
    write_atomically(target, _packed(files))
    return check(target, paths.keys)


def lines_within(paths: AuditPaths, since: datetime, until: datetime) -> dict[str, list[bytes]]:
    """Return the lines from the first to the last record of a time, by the file's name, oldest file first.

    The chains that were put away are read, too. A line that is no record stays between its neighbours: the
    check tells of it. Raises OSError.
    """
    # The text of a time sorts as the time does.
    first, end = record.timestamp(since), record.timestamp(until)
    found = {}
    for chain in paths.chains:
        lines = chain.read_bytes().splitlines(keepends=True) if chain.exists() else []
        inside = [number for number, line in enumerate(lines) if first <= _time(line) < end]
        if inside:
            found[chain.name] = lines[inside[0] : inside[-1] + 1]
    return found


def seal(paths: AuditPaths, folder: Path, about: Mapping[str, Any]) -> dict[str, str]:
    """Write a manifest beside the files of a directory, and return the SHA-256 of each by its path.

    The caller holds the chain's lock. Raises EvidenceError where there is a manifest or no file, and OSError.
    """
    if (folder / MANIFEST).exists():
        raise EvidenceError(f"{folder} is sealed already")
    hashes = _hashes_below(folder)
    if not hashes:
        raise EvidenceError(f"{folder} has no file")
    write_atomically(folder / MANIFEST, _manifest(paths, hashes, about, {}))
    return hashes


def check_sealed(folder: Path, key_folder: Path) -> Report:
    """Check a directory that was sealed, by public keys that are trusted. Raises EvidenceError, OSError."""
    report = Report()
    try:
        manifest = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise EvidenceError(f"{folder} is not sealed: it has no {MANIFEST}") from None
    _check_manifest(manifest, _hashes_below(folder), keys.KeyRing.load(key_folder), report)
    return report


def check(bundle: Path, key_folder: Path | None = None) -> Report:
    """Check a bundle: its manifest, every file of it, and every record.

    ``key_folder`` has the public keys that are trusted; without it the bundle's own are, which only shows
    that nothing was damaged. Raises EvidenceError when it is no bundle, KeyFileError and OSError.
    """
    report = Report()
    with tempfile.TemporaryDirectory() as folder:
        files = _unpacked(bundle)
        for name, content in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        trusted = key_folder or Path(folder) / "keys"
        _check_manifest(files.get(MANIFEST, b""), _hashes(files), keys.KeyRing.load(trusted), report)
        for name in sorted(files):
            if name.startswith("records/"):
                _add(report, verify(Path(folder) / name, trusted, part=True))
    return report


def _hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items() if name != MANIFEST}


def _hashes_below(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / MANIFEST:
            with path.open("rb") as stream:
                found[str(path.relative_to(folder))] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def _manifest(
    paths: AuditPaths, hashes: Mapping[str, str], about: Mapping[str, Any], more: Mapping[str, str]
) -> bytes:
    """Return the signed manifest of files."""
    signer = keys.load_or_create(paths.private_key, paths.keys)
    manifest: dict[str, Any] = {
        "v": record.VERSION,
        **more,
        "made_at": record.timestamp(),
        "about": record.normalise(about),
        "files": dict(hashes),
        "key": signer.key_id,
    }
    manifest["sig"] = signer.sign(_statement(manifest))
    return record.canonical(manifest) + b"\n"


def _time(line: bytes) -> str:
    try:
        return str(record.parse(line)["at"])
    except record.RecordError:
        return ""


def _statement(manifest: Mapping[str, Any]) -> bytes:
    return _PURPOSE + record.canonical({key: value for key, value in manifest.items() if key != "sig"})


def _packed(files: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            entry.mtime = int(datetime.now(UTC).timestamp())
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _unpacked(bundle: Path) -> dict[str, bytes]:
    try:
        with tarfile.open(bundle) as archive:
            members = [member for member in archive.getmembers() if _expected(member)]
            return {
                member.name: stream.read() for member in members if (stream := archive.extractfile(member))
            }
    except (tarfile.TarError, EOFError) as error:
        raise EvidenceError(f"{bundle} is no bundle of evidence: {error}") from None


def _expected(member: tarfile.TarInfo) -> bool:
    """Whether a member is a file at one of a bundle's own places; nothing else is unpacked."""
    folder, _, name = member.name.rpartition("/")
    return member.isfile() and folder in ("", "keys", "records") and name not in ("", "..")


def _check_manifest(text: bytes, found: Mapping[str, str], ring: keys.KeyRing, report: Report) -> None:
    try:
        manifest = json.loads(text)
        signed = ring.verifies(manifest["key"], manifest["sig"], _statement(manifest))
        listed: dict[str, str] = dict(manifest["files"])
    except (ValueError, KeyError, TypeError):
        raise EvidenceError(f"the bundle has no {MANIFEST} that can be read") from None
    if not signed:
        report.add("manifest", "the manifest is not signed by a known key")
    for name in sorted(found.keys() | listed.keys()):
        if found.get(name) != listed.get(name):
            state = (
                "was added" if name not in listed else "is missing" if name not in found else "was changed"
            )
            report.add("manifest", f"{name} {state}")


def _add(report: Report, other: Report) -> None:
    """Add what the records of one more chain showed."""
    report.chain = ", ".join(filter(None, [report.chain, other.chain]))
    report.records += other.records
    report.runs += other.runs
    report.aborted += other.aborted
    report.first_at = min(filter(None, [report.first_at, other.first_at]), default="")
    report.last_at = max(report.last_at, other.last_at)
    report.findings += other.findings
