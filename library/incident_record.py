#!/usr/bin/python
"""Ansible module: keep the record of an incident."""

from __future__ import annotations

DOCUMENTATION = r"""
module: incident_record
short_description: Open an incident, go on with it, close it
description:
  - Runs on the control node. Keeps C(incident.json) and, made anew each time from it, from the audit trail
    and from the alerts that fired, C(incident.md), below C(directory)/<id>.
  - What the procedure for one of kind V(security) asks for is ticked off by the runs that the audit trail has
    since the detection, host by host. What is missing stands there as the command to type.
version_added: "0.7.0"
author: Stationkeeper
options:
  directory:
    description: Where incidents are kept.
    type: path
    required: true
  id:
    description: The incident. A new one is opened when empty.
    type: str
    default: ""
  kind:
    description: Whether somebody got in (V(security)) or something does not work (V(service)), for a new one.
    type: str
    choices: [security, service]
    default: security
  title:
    description: What happened, for a new one.
    type: str
    default: ""
  service:
    description: What does not work, for a new one.
    type: str
    default: ""
  users:
    description: Who notices, for a new one.
    type: str
    default: ""
  description:
    description: What is seen of it, for a new one.
    type: str
    default: ""
  detected:
    description: Since when it is known (RFC 3339 with an offset from UTC), for a new one. Now when empty.
    type: str
    default: ""
  severity:
    description: How bad it is. A new one is high when empty.
    type: str
    choices: ["", info, warning, high, critical]
    default: ""
  hosts:
    description: Hosts that it concerns, besides those that are named already.
    type: list
    elements: str
    default: []
  phase:
    description: The phase that begins.
    type: str
    choices: ["", immediate, investigation, containment, recovery, lessons]
    default: ""
  note:
    description: Something to write down.
    type: str
    default: ""
  action:
    description: What was done by hand.
    type: str
    default: ""
  follow_up:
    description: What is still to be done when it is over.
    type: list
    elements: str
    default: []
  cause:
    description: The cause, when it is known.
    type: str
    default: ""
  close:
    description: Close it.
    type: bool
    default: false
  who:
    description: Who says so.
    type: str
    required: true
  inventory:
    description: The inventory, as commands shall name it.
    type: str
    required: true
  prometheus:
    description: Address of the Prometheus that knows the alerts. None are told when empty.
    type: str
    default: ""
  audit:
    description: Directory of the audit chain. That of C($STATIONKEEPER_STATE) when left out.
    type: path
attributes:
  check_mode:
    description: Shows what would be written.
    support: full
  diff_mode:
    description: Shows the page.
    support: full
requirements:
  - the Python package C(stationkeeper) on the control node
"""

EXAMPLES = r"""
- name: Open an incident
  incident_record:
    directory: "{{ stationkeeper_state }}/incidents"
    title: somebody logged in as eve
    hosts: [fluxhub]
    who: anna
    inventory: inventories/flux
  delegate_to: localhost
"""

RETURN = r"""
id:
  description: The incident.
  returned: success
  type: str
  sample: INC-2026-11-22-001
page:
  description: The page, as it is in C(incident.md).
  returned: success
  type: str
path:
  description: Where the page is.
  returned: success
  type: str
"""

import http.client
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

try:
    from stationkeeper.audit import record
    from stationkeeper.audit.evidence import lines_within
    from stationkeeper.audit.paths import AuditPaths
    from stationkeeper.files import write_atomically
    from stationkeeper.incidents import alerts, incident
    from stationkeeper.incidents.incident import ID, IncidentError
    from stationkeeper.incidents.report import page, runs
except ImportError:
    page = None  # type: ignore[assignment]  # reported below, with how to install it


def main() -> None:
    """Run the module."""
    severities = ["", "info", "warning", "high", "critical"]
    phases = ["", "immediate", "investigation", "containment", "recovery", "lessons"]
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "id": {"type": "str", "default": ""},
            "kind": {"type": "str", "choices": ["security", "service"], "default": "security"},
            "title": {"type": "str", "default": ""},
            "service": {"type": "str", "default": ""},
            "users": {"type": "str", "default": ""},
            "description": {"type": "str", "default": ""},
            "detected": {"type": "str", "default": ""},
            "severity": {"type": "str", "choices": severities, "default": ""},
            "hosts": {"type": "list", "elements": "str", "default": []},
            "phase": {"type": "str", "choices": phases, "default": ""},
            "note": {"type": "str", "default": ""},
            "action": {"type": "str", "default": ""},
            "follow_up": {"type": "list", "elements": "str", "default": []},
            "cause": {"type": "str", "default": ""},
            "close": {"type": "bool", "default": False},
            "who": {"type": "str", "required": True},
            "inventory": {"type": "str", "required": True},
            "prometheus": {"type": "str", "default": ""},
            "audit": {"type": "path"},
        },
        supports_check_mode=True,
    )
    if page is None:
        module.fail_json(msg="the stationkeeper package is missing on the control node: run `make setup`")
    given = module.params
    now = datetime.now(UTC)
    directory = Path(given["directory"])
    try:
        before = _read(directory, given["id"])
        id = given["id"] or incident.number((path.name for path in directory.glob("INC-*")), now)
        known = before or incident.opened(
            id,
            given["title"],
            given["severity"] or "high",
            given["hosts"],
            detected=given["detected"],
            now=now,
            **{name: given[name] for name in ("kind", "service", "users", "description")},
        )
        names = ("who", "hosts", "phase", "note", "action", "cause", "follow_up", "close")
        words = {name: given[name] for name in names}
        after = incident.went_on(known, now=now, severity=given["severity"] if before else "", **words)
        trail, damaged = _trail(AuditPaths.at(given["audit"]), after)
        fired = _fired(given["prometheus"], after, now)
        done = runs(trail, after.detected)
        text = page(after, done, now, given["inventory"], alerts=fired, damaged=damaged)
        path = directory / id / "incident.md"
        shown = path.read_text() if path.exists() else ""
        if not module.check_mode:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomically(
                path.with_suffix(".json"), json.dumps(after.as_dict(), indent=2) + "\n", mode=0o600
            )
            write_atomically(path, text, mode=0o600)
    except (IncidentError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=after != before,
        id=id,
        page=text,
        path=str(path),
        diff={"before": shown, "after": text, "before_header": str(path), "after_header": str(path)},
    )


def _read(directory: Path, id: str) -> Any:
    """Return the incident that is there, None for a new one. Raises IncidentError."""
    if not id:
        return None
    if not ID.fullmatch(id) or not (directory / id / "incident.json").is_file():
        there = ", ".join(sorted(path.name for path in directory.glob("INC-*"))) or "none"
        raise IncidentError(f"no incident {id}; there is {there}. Without -e incident a new one is opened")
    return incident.read(json.loads((directory / id / "incident.json").read_text()))


def _trail(paths: AuditPaths, known: Any) -> tuple[list[dict[str, Any]], int]:
    """Return the audit records since the detection, and how many lines between them are none."""
    # A run's end may have come after the moment at which its incident was closed.
    until = datetime.now(UTC) + timedelta(days=1)
    found, damaged = [], 0
    for lines in lines_within(paths, datetime.fromisoformat(known.detected), until).values():
        for line in lines:
            try:
                found.append(record.parse(line))
            except record.RecordError:
                damaged += 1
    return found, damaged


def _fired(server: str, known: Any, now: datetime) -> Any:
    """Return the alerts of the incident's time, or why they are not known: Prometheus may be what is down."""
    if not server:
        return ()
    since = datetime.fromisoformat(known.detected)
    until = datetime.fromisoformat(known.closed) if known.closed else now
    try:
        with open_url(alerts.request(server, since, until), timeout=10) as answer:
            return alerts.alerts(json.load(answer), since, until)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return f"{server} does not tell them ({error})"


if __name__ == "__main__":
    main()
