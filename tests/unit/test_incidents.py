"""An incident: what is refused, what the audit ticks off host by host, and what the page says."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from module_runner import run_module

from stationkeeper.audit.chain import Chain
from stationkeeper.audit.paths import AuditPaths
from stationkeeper.incidents.incident import Incident, IncidentError, number, opened, read, went_on
from stationkeeper.incidents.report import Run, page, runs

NOW = datetime(2026, 11, 22, 14, 30, tzinfo=UTC)
INCIDENT = opened(
    "INC-2026-11-22-001",
    "eve logged in",
    "high",
    ["hub", "wlce"],
    detected="2026-11-22T15:20:00+01:00",
    now=NOW,
)


def records(playbook: str, hosts: list[str], at: str, **more: Any) -> list[dict[str, Any]]:
    start = {
        "playbook": f"playbooks/{playbook}.yml",
        "extra_vars": {"target": ",".join(hosts)},
        "who": {"person": "anna"},
        "mode": "real",
        "reason": "",
    }
    end = {"outcome": "ok", "hosts": {"localhost": {}} | {host: {} for host in hosts}}
    id = f"{playbook}-{at}"
    return [
        {"event": "START", "at": at, "run_id": id, "data": start | more},
        {"event": "CHANGE", "at": at, "run_id": id, "data": {}},
        {"event": "END", "at": at, "run_id": id, "data": end},
    ]


def test_ids_count_within_a_day() -> None:
    assert number([], NOW) == "INC-2026-11-22-001"
    assert number(["INC-2026-11-22-009", "INC-2026-11-21-700"], NOW) == "INC-2026-11-22-010"


def test_times_are_in_utc_and_what_makes_no_sense_is_refused() -> None:
    assert INCIDENT.detected == "2026-11-22T14:20:00+00:00"
    for change, words in (
        ({"title": " "}, "needs a title"),
        ({"severity": "loud"}, "severity is one of info"),
        ({"detected": "yesterday"}, "detected is no time"),
        ({"detected": "2026-11-22T14:00:00"}, "no offset from UTC"),
        ({"detected": "2026-11-22T14:31:00Z"}, "in the future"),
    ):
        given = {"title": "x", "severity": "high", "detected": ""} | change
        with pytest.raises(IncidentError, match=words):
            opened(INCIDENT.id, given["title"], given["severity"], [], detected=given["detected"], now=NOW)


def test_it_goes_on_and_keeps_what_was_said() -> None:
    after = went_on(
        INCIDENT, who="anna", now=NOW, hosts=["hub", "db"], phase="containment", note="by a stolen key"
    )
    assert after.hosts == ("hub", "wlce", "db")
    assert [note.text for note in after.notes] == [
        "phase immediate → containment",
        "also db",
        "by a stolen key",
    ]
    assert went_on(after, who="anna", now=NOW) == after
    assert read(json.loads(json.dumps(after.as_dict()))) == after
    with pytest.raises(IncidentError, match="closing it needs a cause"):
        went_on(after, who="anna", now=NOW, close=True)
    closed = went_on(after, who="anna", now=NOW, close=True, cause="a key that was not withdrawn")
    assert closed.closed == "2026-11-22T14:30:00+00:00"
    with pytest.raises(IncidentError, match="was closed at"):
        went_on(closed, who="anna", now=NOW, note="one more thing")
    with pytest.raises(IncidentError, match="no incident of this version"):
        read({"id": "x"})


def test_runs_come_from_the_audit_trail() -> None:
    trail = [
        *records("security_access_audit", ["hub"], "2026-11-22T14:00:00Z"),
        *records("security_preserve_evidence", ["hub"], "2026-11-22T14:25:00Z"),
        *records("security_isolate_host", ["hub"], "2026-11-22T14:26:00Z", mode="check"),
        *records("site", ["hub"], "2026-11-22T14:27:00Z")[:1],
    ]
    found = runs(trail, INCIDENT.detected)
    assert [(one.playbook, one.outcome, one.check) for one in found] == [
        ("security_preserve_evidence", "ok", False),
        ("security_isolate_host", "ok", True),
        ("site", "", False),
    ]
    assert found[0].hosts == {"hub"}


def shown(incident: Incident, done: list[Run], now: datetime = NOW) -> str:
    return page(incident, done, now, "inventories/flux")


def test_what_was_done_is_ticked_off_host_by_host() -> None:
    trail = records("security_preserve_evidence", ["hub"], "2026-11-22T14:25:00Z")
    first = shown(INCIDENT, runs(trail, INCIDENT.detected))
    assert "- [ ] Preserve the evidence before anything is mended (not yet on wlce):" in first
    assert "playbooks/security_preserve_evidence.yml -e target=wlce`" in first
    assert (
        "security_isolate_host.yml -e target=hub,wlce -e confirm=hub,wlce -e reason=INC-2026-11-22-001`"
        in first
    )
    assert """-e '{"addresses": ["ADDRESS"]}'`""" in first
    trail += records("security_preserve_evidence", ["wlce"], "2026-11-22T14:26:00Z")
    second = shown(INCIDENT, runs(trail, INCIDENT.detected))
    assert (
        "- [x] Preserve the evidence before anything is mended (security_preserve_evidence at 2026" in second
    )
    # What is asked of the whole system is done by any run.
    assert "playbooks/audit_verify.yml`" in second
    audited = runs(records("audit_verify", ["db"], "2026-11-22T14:28:00Z"), INCIDENT.detected)
    assert "- [x] Prove that the audit trail is whole (audit_verify at" in shown(INCIDENT, audited)
    # A preview is none.
    preview = records("security_isolate_host", ["hub", "wlce"], "2026-11-22T14:27:00Z", mode="check")
    assert "- [ ] Isolate the hosts:" in shown(INCIDENT, runs(preview, INCIDENT.detected))


def test_the_page_says_since_when_what_is_late_and_what_happened() -> None:
    went = went_on(INCIDENT, who="anna", now=NOW, note="by a stolen key")
    done = runs(records("security_preserve_evidence", ["hub"], "2026-11-22T14:25:00Z"), went.detected)
    text = shown(went, done, NOW + timedelta(minutes=35))
    assert "| Duration | 45 min |" in text
    assert "### Immediate response, until 2026-11-22 14:35:00 UTC (late by 30 min) ← now" in text
    assert text.rpartition("## Timeline")[2].strip().splitlines() == [
        "- 2026-11-22 14:20:00 UTC detected",
        "- 2026-11-22 14:25:00 UTC anna ran security_preserve_evidence hub (ok)",
        "- 2026-11-22 14:30:00 UTC anna: by a stolen key",
    ]
    closed = went_on(went, who="anna", now=NOW + timedelta(days=1), close=True, cause="a stolen key")
    assert "closed 2026-11-23 14:30:00 UTC" in shown(closed, done, NOW + timedelta(days=9))
    assert "| Duration | 1 d 10 min |" in shown(closed, done, NOW + timedelta(days=9))


def test_the_record_is_kept_by_the_module(tmp_path: Path) -> None:
    given = {
        "directory": str(tmp_path / "incidents"),
        "who": "anna",
        "inventory": "i",
        "audit": str(tmp_path),
    }
    refused = run_module(tmp_path, "incident_record", {**given, "id": "INC-2026-11-22-001"})
    assert "there is none. Without -e incident a new one is opened" in refused["msg"]
    preview = run_module(tmp_path, "incident_record", {**given, "title": "eve", "hosts": ["hub"]}, check=True)
    assert preview["changed"] is True
    assert not (tmp_path / "incidents").exists()
    made = run_module(tmp_path, "incident_record", {**given, "title": "eve", "hosts": ["hub"]})
    assert Path(made["path"]).read_text() == made["page"]
    assert Path(made["path"]).stat().st_mode & 0o077 == 0
    same = run_module(tmp_path, "incident_record", {**given, "id": made["id"]})
    assert same["changed"] is False
    noted = run_module(tmp_path, "incident_record", {**given, "id": made["id"], "note": "by a key"})
    assert "anna: by a key" in noted["page"]


def test_runs_of_a_chain_that_was_put_away_count_and_damaged_lines_are_told(tmp_path: Path) -> None:
    chain = Chain(AuditPaths(tmp_path / "audit"))
    detected = datetime.now(UTC) - timedelta(minutes=5)
    for start, _, end in (records("security_preserve_evidence", ["hub"], ""), records("site", ["hub"], "")):
        for one in (start, end):
            chain.append(one["event"], one["run_id"], one["data"])
        if start["run_id"].startswith("security"):
            chain.archive("test")
    lines = chain.paths.chain.read_bytes().splitlines(keepends=True)
    chain.paths.chain.write_bytes(b"".join([lines[0], b'{"v": 1, "se\n', *lines[1:]]))
    given = {
        "directory": str(tmp_path / "incidents"),
        "title": "eve",
        "detected": detected.isoformat(),
        "hosts": ["hub"],
        "who": "anna",
        "inventory": "i",
    }
    made = run_module(tmp_path, "incident_record", {**given, "audit": str(chain.paths.directory)})
    assert "- [x] Preserve the evidence before anything is mended" in made["page"]
    assert "- [x] Converge the hosts" in made["page"]
    assert "**Damaged lines of the audit trail since then: 1.**" in made["page"]
