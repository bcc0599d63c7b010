"""``stationkeeper audit``: verify, show, ship and archive the chain of this control node."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from stationkeeper.audit import evidence, record, ship
from stationkeeper.audit.chain import Chain, ChainError, chain_id
from stationkeeper.audit.keys import KeyFileError
from stationkeeper.audit.paths import AuditPaths
from stationkeeper.audit.verify import Report, verify
from stationkeeper.database.settings_file import SettingsFileError, read_settings


def run(arguments: list[str]) -> int:
    """Return 0 when all is well, 1 when the chain is not, 2 when the question could not be answered."""
    parsed = _parser().parse_args(arguments)
    paths = AuditPaths.at(parsed.directory)
    try:
        result: int = parsed.action(paths, parsed)
    except (
        ChainError,
        KeyFileError,
        evidence.EvidenceError,
        ship.ShipError,
        SettingsFileError,
        OSError,
    ) as error:
        print(f"stationkeeper audit: {error}", file=sys.stderr)
        return 2
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="stationkeeper audit", description=__doc__)
    parser.add_argument(
        "--directory", type=Path, help="folder of the chain (default: $STATIONKEEPER_STATE/audit)"
    )
    actions = parser.add_subparsers(required=True)

    check = actions.add_parser("verify", help="prove that no record was changed, removed, moved or added")
    check.add_argument("--chain", type=Path, help="another chain file, for example an archived one")
    check.add_argument("--head", type=Path, help="its head (default: beside the chain)")
    check.add_argument("--keys", type=Path, help="folder of trusted public keys (default: the chain's own)")
    group = check.add_mutually_exclusive_group()
    group.add_argument("--bundle", type=Path, help="a bundle of evidence (audit_export) instead of the chain")
    group.add_argument("--sealed", type=Path, help="a directory that security_preserve_evidence has sealed")
    group.add_argument("--database", action="store_true", help="compare with ops.audit, as set up")
    group.add_argument("--database-file", type=Path, help="compare with ops.audit, connection in this file")
    check.add_argument("--json", action="store_true", help="print the report as JSON")
    check.set_defaults(action=_verify)

    show = actions.add_parser("show", help="print records")
    show.add_argument("--run", help="only this run")
    show.add_argument("--last", type=int, help="only the last N records")
    show.add_argument("--json", action="store_true", help="print the records as they are stored")
    show.set_defaults(action=_show)

    copy = actions.add_parser("ship", help="copy records to ops.audit that are not there yet")
    copy.add_argument("--database-file", type=Path, help="connection settings (default: as set up)")
    copy.set_defaults(action=_ship)

    archive = actions.add_parser("archive", help="put this chain away and start a new one that names it")
    archive.add_argument("--reason", required=True, help="why; it becomes part of the new chain")
    archive.set_defaults(action=_archive)
    return parser


def _verify(paths: AuditPaths, parsed: argparse.Namespace) -> int:
    if parsed.sealed:
        return _verify_sealed(parsed.sealed, parsed.keys or paths.keys, as_json=parsed.json)
    report = evidence.check(parsed.bundle, parsed.keys) if parsed.bundle else _verified(paths, parsed)
    print(json.dumps(report.as_dict(), indent=2) if parsed.json else _describe(report))
    return 0 if report.ok else 1


def _verify_sealed(folder: Path, key_folder: Path, *, as_json: bool) -> int:
    report = evidence.check_sealed(folder, key_folder)
    if as_json:
        print(json.dumps(report.as_dict(), indent=2))
    else:
        print("\n".join(f"WRONG    {finding.message}" for finding in report.findings) or "The seal is whole.")
    return 0 if report.ok else 1


def _verified(paths: AuditPaths, parsed: argparse.Namespace) -> Report:
    chain = parsed.chain or paths.chain
    head = parsed.head or (chain.with_suffix(".head") if parsed.chain else paths.head)
    rows = None
    if parsed.database or parsed.database_file:
        rows = ship.fetch(read_settings(_settings(paths, parsed.database_file)), chain_id(chain))
    if not parsed.chain:
        # Not while somebody appends: chain and head must be read as of one moment.
        with Chain(paths).locked():
            return verify(chain, parsed.keys or paths.keys, head_path=head, rows=rows)
    return verify(chain, parsed.keys or paths.keys, head_path=head, rows=rows)


def _describe(report: Report) -> str:
    lines = [
        f"Chain {report.chain}: {report.records} records, {report.runs} runs ({report.aborted} aborted), "
        f"{report.first_at} to {report.last_at}"
    ]
    if report.compared is not None:
        lines.append(
            f"Compared {report.compared} copies in the database; {report.not_shipped} records not there yet"
        )
    lines += [
        f"{'RUNNING' if run.state == 'alive' else 'NO END '}  run {run.run_id} of {run.playbook}, "
        f"started {run.started_at} (process {run.state})"
        for run in report.open_runs
    ]
    lines += [f"WRONG    {finding.kind}: {finding.message}" for finding in report.findings]
    lines.append("The chain is whole." if report.ok else "The chain is NOT in order.")
    return "\n".join(lines)


def _show(paths: AuditPaths, parsed: argparse.Namespace) -> int:
    with paths.chain.open("rb") as stream:
        lines = [line for line in stream if parsed.run is None or parsed.run.encode() in line]
    wanted: list[tuple[bytes, dict[str, Any] | None]] = []
    for line in lines:
        try:
            entry = record.parse(line)
        except record.RecordError:
            wanted.append((line, None))
            continue
        if parsed.run is None or entry["run_id"] == parsed.run:
            wanted.append((line, entry))
    for line, shown in wanted[-parsed.last :] if parsed.last else wanted:
        if parsed.json:
            print(line.decode("utf-8", "replace").rstrip("\n"))
        else:
            print(_summary(shown) if shown else "       (not a record; run `stationkeeper audit verify`)")
    return 0


def _summary(entry: dict[str, Any]) -> str:
    data = entry["data"]
    words = [data.get(name) for name in ("mode", "playbook", "host", "task", "module", "outcome", "reason")]
    text = "  ".join(str(word) for word in words if word)
    return f"{entry['seq']:>6} {entry['at']} {entry['event']:<10} {entry['run_id'][:8]:<8} {text}"


def _ship(paths: AuditPaths, parsed: argparse.Namespace) -> int:
    copied = ship.ship(paths, read_settings(_settings(paths, parsed.database_file)))
    print(f"Copied {copied} records to ops.audit")
    return 0


def _archive(paths: AuditPaths, parsed: argparse.Namespace) -> int:
    archived = Chain(paths).archive(parsed.reason)
    print(f"The chain is now {archived}; a new one has begun")
    return 0


def _settings(paths: AuditPaths, given: Path | None) -> Path:
    found: Path | None = given or ship.settings_file(paths)
    if found is None:
        raise ship.ShipError(
            f"no connection to the audit database is set up: {paths.settings} is not there "
            "(site.yml writes it), and STATIONKEEPER_AUDIT_DSN_FILE is not set"
        )
    return found
