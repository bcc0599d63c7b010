"""One incident from its detection to its lessons. Pure logic.

Somebody who got in (kind ``security``) is answered in phases; source of these and of their times: fulsk.md,
Runbook: Security Incident Response. What does not work (kind ``service``) has none: smartgrid.md, Incident
Communication.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

SEVERITIES = ("info", "warning", "high", "critical")
KINDS = ("security", "service")
ID = re.compile(r"INC-\d{4}-\d{2}-\d{2}-\d{3}")


class IncidentError(ValueError):
    """A wish that makes no sense for the incident; the message says what does."""


@dataclass(frozen=True)
class Step:
    """One thing to do. With a ``runbook`` the audit says whether it was done; ``options`` go with it.

    It is done for each host, or once for the whole ``system``.
    """

    text: str
    runbook: str = ""
    options: str = "-e target={target}"
    system: bool = False


@dataclass(frozen=True)
class Phase:
    """One phase: until when it should be over, counted from the detection, and what is done in it."""

    name: str
    title: str
    until: timedelta
    steps: tuple[Step, ...]


PHASES = (
    Phase(
        "immediate",
        "Immediate response",
        timedelta(minutes=15),
        (
            Step("Preserve the evidence before anything is mended", "security_preserve_evidence"),
            Step(
                "Isolate the hosts",
                "security_isolate_host",
                "-e target={target} -e confirm={target} -e reason={id}",
            ),
            Step("Tell the people who have to know"),
        ),
    ),
    Phase(
        "investigation",
        "Investigation",
        timedelta(minutes=60),
        (
            Step("Find out who got in, and by what", "security_access_audit"),
            Step("Find out what was changed", "security_drift"),
            Step("Prove that the audit trail is whole", "audit_verify", "", system=True),
            Step("Write down how it happened and what it reaches"),
        ),
    ),
    Phase(
        "containment",
        "Containment",
        timedelta(hours=4),
        (
            Step(
                "Block where it comes from",
                "security_block_address",
                """-e target={target} -e reason={id} -e '{{"addresses": ["ADDRESS"]}}'""",
            ),
            Step(
                "Give other values to credentials that the hosts knew",
                "security_rotate_keys",
                """-e target=all -e sessions=all -e reason={id} -e '{{"names": ["NAME"]}}'""",
                system=True,
            ),
            Step("Close the holes that updates close", "security_patch", "-e target={target} -e reason={id}"),
        ),
    ),
    Phase(
        "recovery",
        "Recovery",
        timedelta(hours=24),
        (
            Step("Restore from clean backups", "files_restore"),
            Step("Converge the hosts", "site", ""),
            Step("Prove that all is well", "check_health", "", system=True),
            Step(
                "End the isolation",
                "security_isolate_host",
                "-e target={target} -e confirm={target} -e reason={id} -e lift=true",
            ),
        ),
    ),
    Phase(
        "lessons",
        "Lessons",
        timedelta(hours=48),
        (
            Step(
                "Put the audit records of the time aside",
                "audit_export",
                "-e since={detected} -e reason={id}",
                system=True,
            ),
            Step("Write down the cause, and what is changed so that it does not happen again"),
        ),
    ),
)
_NAMES = tuple(phase.name for phase in PHASES)


@dataclass(frozen=True)
class Note:
    """Something that somebody wrote down, or did by hand. ``at`` is RFC 3339 in UTC."""

    at: str
    who: str
    phase: str
    text: str
    action: bool = False


@dataclass(frozen=True)
class Incident:
    """What is known. Times are RFC 3339 in UTC; ``closed`` is empty while it is open.

    Only one of kind ``security`` has a phase.
    """

    id: str
    title: str
    severity: str
    detected: str
    hosts: tuple[str, ...]
    phase: str = _NAMES[0]
    cause: str = ""
    closed: str = ""
    notes: tuple[Note, ...] = ()
    kind: str = KINDS[0]
    service: str = ""
    users: str = ""
    description: str = ""
    follow_up: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)


def read(data: Mapping[str, Any]) -> Incident:
    """Return the incident of `as_dict`. Raises IncidentError for something else."""
    try:
        lists = {"hosts": tuple(data["hosts"]), "follow_up": tuple(data.get("follow_up", ()))}
        return Incident(**{**data, **lists, "notes": tuple(Note(**note) for note in data["notes"])})
    except (KeyError, TypeError) as error:
        raise IncidentError(f"this is no incident of this version: {error}") from None


def number(existing: Iterable[str], now: datetime) -> str:
    """Return the id of the next incident of a day."""
    day = f"INC-{now.astimezone(UTC):%Y-%m-%d}-"
    last = max((int(one.removeprefix(day)) for one in existing if one.startswith(day)), default=0)
    return f"{day}{last + 1:03}"


def opened(
    id: str,
    title: str,
    severity: str,
    hosts: Sequence[str],
    *,
    detected: str,
    now: datetime,
    kind: str = KINDS[0],
    service: str = "",
    users: str = "",
    description: str = "",
) -> Incident:
    """Return a new incident. Raises IncidentError."""
    if not title.strip():
        raise IncidentError(
            "a new incident needs a title (-e title=…); one that is open is named by -e incident=ID"
        )
    if severity not in SEVERITIES:
        raise IncidentError(f"severity is one of {', '.join(SEVERITIES)}")
    at = _moment(detected) if detected else now
    if at > now:
        raise IncidentError(f"detected is in the future: {detected}")
    moment = at.astimezone(UTC).isoformat(timespec="seconds")
    phase = _NAMES[0] if kind == "security" else ""
    return Incident(
        id,
        title.strip(),
        severity,
        moment,
        tuple(hosts),
        phase,
        kind=kind,
        service=service,
        users=users,
        description=description,
    )


def went_on(
    incident: Incident,
    *,
    who: str,
    now: datetime,
    hosts: Sequence[str] = (),
    phase: str = "",
    note: str = "",
    action: str = "",
    severity: str = "",
    cause: str = "",
    follow_up: Sequence[str] = (),
    close: bool = False,
) -> Incident:
    """Return the incident with what was added. Raises IncidentError: then nothing is."""
    if incident.closed:
        raise IncidentError(f"{incident.id} was closed at {incident.closed}: open a new one")
    if phase and phase not in _NAMES:
        raise IncidentError(f"phase is one of {', '.join(_NAMES)}")
    if phase and incident.kind != "security":
        raise IncidentError(f"{incident.id} is of kind {incident.kind}, which has no phases")
    if severity and severity not in SEVERITIES:
        raise IncidentError(f"severity is one of {', '.join(SEVERITIES)}")
    if close and not (cause or incident.cause):
        raise IncidentError("closing it needs a cause (-e cause=…), if only that it was not found")
    at = now.astimezone(UTC).isoformat(timespec="seconds")
    after = replace(
        incident,
        hosts=tuple(dict.fromkeys((*incident.hosts, *hosts))),
        phase=phase or incident.phase,
        severity=severity or incident.severity,
        cause=cause or incident.cause,
        follow_up=tuple(dict.fromkeys((*incident.follow_up, *follow_up))),
    )
    added = []
    if after.phase != incident.phase:
        added.append(f"phase {incident.phase} → {after.phase}")
    if after.severity != incident.severity:
        added.append(f"severity {incident.severity} → {after.severity}")
    if set(after.hosts) != set(incident.hosts):
        added.append(f"also {', '.join(host for host in after.hosts if host not in incident.hosts)}")
    if after.cause != incident.cause:
        added.append(f"cause: {after.cause}")
    if note.strip():
        added.append(note.strip())
    if close:
        after = replace(after, closed=at)
        added.append("closed")
    notes = [Note(at, who, after.phase, text) for text in added]
    if action.strip():
        notes.insert(0, Note(at, who, after.phase, action.strip(), action=True))
    return replace(after, notes=(*incident.notes, *notes))


def _moment(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise IncidentError(f"detected is no time: {text} (RFC 3339, as 2026-11-22T14:23:00Z)") from None
    if at.tzinfo is None:
        raise IncidentError(f"detected has no offset from UTC: {text}Z?")
    return at
