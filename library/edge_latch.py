#!/usr/bin/python
"""Ansible module: the persisted emergency-stop latch of a station."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: edge_latch
short_description: Engage, release or query the emergency-stop latch of a station
description:
  - The latch is a file on the station. While it exists, the station controller commands 0 kW.
  - It survives restarts, reboots and deployments. Only O(state=released) removes it.
  - A latch that is already engaged keeps the record of whoever stopped first.
  - When the disk is full, the latch is kept in memory (until the next reboot) and the module warns.
  - It complements, and never replaces, the hardware stop and the battery's own protection.
options:
  state:
    description: What to do. V(query) only reports.
    type: str
    choices: [engaged, released, query]
    required: true
  reason:
    description: Why. Required for V(engaged) and V(released).
    type: str
  run_id:
    description: Identifier of the run that asks, kept in the latch. Required for V(engaged).
    type: str
  owner:
    description: Who asks. The default is the user at the other end of sudo on the station.
    type: str
  directory:
    description: Directory of the latch.
    type: path
    default: /var/lib/bess_controller/latch
  fallback_directory:
    description: Directory in memory that takes the latch when the disk does not.
    type: path
    default: /run/bess_controller/latch
attributes:
  check_mode:
    support: full
    description: Reports what would change and writes nothing.
  diff_mode:
    support: full
    description: Shows the record of the latch before and after.
author: Stationkeeper maintainers
"""

EXAMPLES = r"""
- name: Latch the station
  edge_latch:
    state: engaged
    reason: smoke in the container
    run_id: 01JD0000000000000000000000

- name: Ask whether the station is latched
  edge_latch:
    state: query
  check_mode: false
"""

RETURN = r"""
latched:
  description: Whether the station is latched (in check mode, whether it would be).
  returned: success
  type: bool
persistent:
  description: Whether the latch survives a reboot.
  returned: success
  type: bool
record:
  description: The record of the latch, none when it is released or has none.
  returned: success
  type: dict
  contains:
    id: {description: Run that engaged it., type: str}
    reason: {description: Why., type: str}
    who: {description: Who., type: str}
    when: {description: 'When, RFC 3339 in UTC.', type: str}
locations:
  description: Files that hold the latch.
  returned: success
  type: list
  elements: str
problems:
  description: What could not be read. Each of them counts as latched.
  returned: success
  type: list
  elements: str
message:
  description: One sentence on the outcome.
  returned: success
  type: str
"""

import getpass
import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.controller.latch import (
    LatchError,
    LatchRecord,
    LatchState,
    clear_latch,
    read_latch,
    set_latch,
    utc_now,
)


def planned(state: str, before: LatchState, record: LatchRecord, target: str) -> tuple[bool, LatchState]:
    """Return whether the latch would change, and to what."""
    if state == "engaged" and not before.persistent:
        return True, LatchState(
            True, True, (target, *before.locations), before.record or record, before.problems
        )
    if state == "released" and before.latched:
        return True, LatchState(latched=False)
    return False, before


def sentence(state: str, changed: bool, after: LatchState) -> str:
    """Say in one sentence what the outcome is."""
    if not after.latched:
        return "The latch was released." if changed else "The station is not latched."
    standing = f"since {after.record.when}: {after.record.reason}" if after.record else "without a record"
    if state == "engaged" and changed:
        return "The station is latched now."
    return f"The station is latched, {standing}."


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["engaged", "released", "query"], "required": True},
            "reason": {"type": "str"},
            "run_id": {"type": "str"},
            "owner": {"type": "str"},
            "directory": {"type": "path", "default": "/var/lib/bess_controller/latch"},
            "fallback_directory": {"type": "path", "default": "/run/bess_controller/latch"},
        },
        required_if=[("state", "engaged", ("reason", "run_id")), ("state", "released", ("reason",))],
        supports_check_mode=True,
    )
    state = module.params["state"]
    places = (Path(module.params["directory"]), Path(module.params["fallback_directory"]))
    owner = module.params["owner"] or os.environ.get("SUDO_USER") or getpass.getuser()
    record = LatchRecord(module.params["run_id"] or "", module.params["reason"] or "", owner, utc_now())
    before = read_latch(*places)
    changed, after = planned(state, before, record, str(places[0] / "emergency_stop.json"))
    try:
        if changed and not module.check_mode:
            if state == "engaged":
                done = set_latch(
                    reason=record.reason,
                    who=record.who,
                    id=record.id,
                    when=record.when,
                    directory=places[0],
                    fallback=places[1],
                )
            else:
                done = clear_latch(*places)
            changed, before, after = done.changed, done.before, done.after
            for warning in done.warnings:
                module.warn(warning)
            module.log(f"emergency-stop latch {state}: {record.reason}")
    except LatchError as error:
        module.fail_json(msg=str(error), **before.as_dict())
    module.exit_json(
        changed=changed,
        message=sentence(state, changed, after),
        diff={"before": before.as_dict(), "after": after.as_dict()},
        **after.as_dict(),
    )


if __name__ == "__main__":
    main()
