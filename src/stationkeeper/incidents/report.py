"""An incident as a page: what happened when, what was done on which host, what comes next. Pure logic.

Source of the form: smartgrid.md, Incident Notification Template.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from stationkeeper.incidents.alerts import Alert
from stationkeeper.incidents.incident import PHASES, Incident, Phase, Step

# Runbooks that only write about incidents.
_ABOUT_IT = ("security_incident", "incident_open", "incident_note", "incident_close")


@dataclass(frozen=True)
class Run:
    """A run of a playbook, from the audit trail. ``outcome`` is empty while it has no end."""

    id: str
    at: str
    playbook: str
    target: str
    who: str
    reason: str
    check: bool
    hosts: frozenset[str] = frozenset()
    outcome: str = ""


def runs(records: Iterable[Mapping[str, Any]], since: str) -> list[Run]:
    """Return the runs that began since then, in their order."""
    found: dict[str, Run] = {}
    for one in records:
        data, id = one.get("data") or {}, str(one.get("run_id", ""))
        if one.get("event") == "START" and str(one.get("at", "")) >= since and data.get("playbook"):
            variables = data.get("extra_vars") or {}
            found[id] = Run(
                id,
                str(one["at"]),
                str(data["playbook"]).rpartition("/")[2].removesuffix(".yml"),
                str(variables.get("target", "")) if isinstance(variables, Mapping) else "",
                str((data.get("who") or {}).get("person", "")),
                str(data.get("reason") or ""),
                data.get("mode") == "check",
            )
        elif one.get("event") in ("END", "ABORTED") and id in found:
            before = found[id]
            hosts = frozenset(data.get("hosts") or {}) - {"localhost"}
            outcome = str(data.get("outcome") or "aborted")
            found[id] = Run(**{**before.__dict__, "hosts": hosts, "outcome": outcome})
    return list(found.values())


def page(
    incident: Incident,
    done: Sequence[Run],
    now: datetime,
    inventory: str,
    *,
    alerts: Sequence[Alert] | str = (),
    damaged: int = 0,
) -> str:
    """Return the page in Markdown.

    ``alerts`` are those of its time, or why they are not known; ``damaged`` counts the lines of the audit
    trail that could not be read.
    """
    known = [] if isinstance(alerts, str) else alerts
    lines = [f"# {incident.id}: {incident.title}", "", *_head(incident, now), ""]
    if isinstance(alerts, str):
        lines += [f"**The alerts of its time are not known**: {alerts}.", ""]
    lines += _warning(damaged, inventory)
    lines += _procedure(incident, done, now, inventory) if incident.kind == "security" else _told(incident)
    lines += ["## Timeline", ""]
    lines += [f"- {_clock(at)} {text}" for at, text in sorted(_timeline(incident, done, known))]
    return "\n".join(lines) + "\n"


def _head(incident: Incident, now: datetime) -> list[str]:
    detected = datetime.fromisoformat(incident.detected)
    end = datetime.fromisoformat(incident.closed) if incident.closed else now
    phase = f", in {incident.phase}" if incident.phase else ""
    rows = {
        "Severity": incident.severity,
        "Service": incident.service,
        "Detected": _clock(detected),
        "Duration": _span(end - detected),
        "Users affected": incident.users,
        "Hosts": ", ".join(incident.hosts) or "none named",
        "Status": f"closed {_clock(end)}" if incident.closed else f"open{phase}",
        "Cause": incident.cause or "to be determined",
    }
    return ["| | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items() if value)]


def _told(incident: Incident) -> list[str]:
    """Return what people said of it: the description, what was done by hand, what is still to be done."""
    actions = [note for note in incident.notes if note.action]
    lines = ["## Description", "", incident.description or incident.title, "", "## Actions taken", ""]
    lines += [
        f"{number}. {note.text} ({note.who}, {_clock(datetime.fromisoformat(note.at))})"
        for number, note in enumerate(actions, start=1)
    ] or ["None was written down; the timeline has the runs."]
    if incident.follow_up:
        lines += ["", "## Follow-up", "", *(f"- [ ] {text}" for text in incident.follow_up)]
    return [*lines, ""]


def _procedure(incident: Incident, done: Sequence[Run], now: datetime, inventory: str) -> list[str]:
    """Return the phases, with what the audit trail says was done of them."""
    lines = [
        "## What comes next" if not incident.closed else "## What was done of what the procedure asks",
        "",
    ]
    for phase in PHASES:
        lines += _phase(incident, phase, done, now=now, inventory=inventory)
    return lines


def _warning(damaged: int, inventory: str) -> list[str]:
    if not damaged:
        return []
    return [
        f"**Damaged lines of the audit trail since then: {damaged}.** This page may lack runs. Find out by",
        f"`ansible-playbook -i {inventory} playbooks/audit_verify.yml`.",
        "",
    ]


def _phase(
    incident: Incident, phase: Phase, done: Sequence[Run], *, now: datetime, inventory: str
) -> list[str]:
    due = datetime.fromisoformat(incident.detected) + phase.until
    here = phase.name == incident.phase and not incident.closed
    late = here and now > due
    title = f"### {phase.title}, until {_clock(due)}"
    lines = [title + (f" (late by {_span(now - due)})" if late else "") + (" ← now" if here else ""), ""]
    for step in phase.steps:
        lines += _step(incident, step, done, inventory)
    return [*lines, ""]


def _step(incident: Incident, step: Step, done: Sequence[Run], inventory: str) -> list[str]:
    if not step.runbook:
        return [f"- {step.text}"]
    good = [run for run in done if run.playbook == step.runbook and run.outcome == "ok" and not run.check]
    reached = {host for run in good for host in run.hosts}
    missing = [host for host in incident.hosts if host not in reached and not step.system]
    if good and not missing:
        return [f"- [x] {step.text} ({step.runbook} at {_clock(datetime.fromisoformat(good[-1].at))})"]
    target = ",".join(missing) or "all"
    options = step.options.format(target=target, id=incident.id, detected=incident.detected)
    some = f" (not yet on {', '.join(missing)})" if good else ""
    command = f"ansible-playbook -i {inventory} playbooks/{step.runbook}.yml {options}".rstrip()
    return [f"- [ ] {step.text}{some}:", f"  `{command}`"]


def _timeline(
    incident: Incident, done: Iterable[Run], alerts: Iterable[Alert]
) -> Iterable[tuple[datetime, str]]:
    yield datetime.fromisoformat(incident.detected), "detected"
    for note in incident.notes:
        yield datetime.fromisoformat(note.at), f"{note.who}: {note.text}"
    until = datetime.fromisoformat(incident.closed) if incident.closed else datetime.max.replace(tzinfo=UTC)
    for run in done:
        at = datetime.fromisoformat(run.at)
        # Asking is no news, and what came after it is another story.
        if at > until or run.playbook in _ABOUT_IT:
            continue
        how = "preview" if run.check else run.outcome or "runs, or ended without a word"
        why = f", {run.reason}" if run.reason else ""
        yield at, f"{run.who} ran {run.playbook} {run.target}".rstrip() + f" ({how}{why})"
    for alert in alerts:
        yield alert.since, f"alert {alert.name}{alert.where}: firing ({alert.severity})"
        if alert.until:
            yield alert.until, f"alert {alert.name}{alert.where}: over"


def _clock(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _span(length: timedelta) -> str:
    minutes = int(length.total_seconds() // 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    words = [f"{days} d" if days else "", f"{hours} h" if hours else "", f"{minutes} min"]
    return " ".join(word for word in words if word)
