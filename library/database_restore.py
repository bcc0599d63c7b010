#!/usr/bin/python
"""Ansible module: a restore of the database into a scratch instance, and its proof."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_restore
short_description: Restore the database into a scratch instance beside the live one, and prove it
description:
  - Runs on a database host, as postgres or root. Restores a backup by pgBackRest into a directory of its own,
    recovers it to the target, and proves that the target was reached and that the data are whole. The live
    cluster is not touched, and need not run.
  - The instance listens on a Unix socket in its directory only, archives nothing and runs no scheduled jobs.
    It stays until it is removed; it does not come back by itself after a reboot.
  - A finished instance of the same request is proven again and not changed. One of another request is refused
    but for O(replace).
  - Fails when the target was not reached, and says how far recovery got; when the target is before the backup
    was complete; when data are damaged or hours have fewer rows than are on record; when the disk is small.
version_added: "0.5.0"
author: Stationkeeper
options:
  state:
    description: V(present) restores and proves, V(absent) stops and deletes the instance.
    type: str
    choices: [present, absent]
    default: present
  name:
    description: Name of the instance, a-z, 0-9, _ and -.
    type: str
    default: restore
  base:
    description: Directory of all scratch instances. Its file system needs room for the whole database.
    type: path
    default: /var/lib/postgresql/stationkeeper-restore
  port:
    description: Port of the instance; it names the socket.
    type: int
    default: 5499
  databases:
    description: Restore only these databases. All when empty.
    type: list
    elements: str
    default: []
  replace:
    description: Restore anew also where there is a finished instance; that is removed first.
    type: bool
    default: false
  checksums:
    description: Verify the checksum of every page; the instance is stopped meanwhile.
    type: bool
    default: true
extends_documentation_fragment: [restore, restore.request]
attributes:
  check_mode:
    description: Says which backup it would restore and whether there is room; the target itself is not tried.
    support: full
  diff_mode:
    description: Shows the instance before and after.
    support: full
requirements: [pgBackRest 2.45 or later, python3-psycopg2]
"""

EXAMPLES = r"""
- name: Look at what the database was before the accident
  database_restore:
    name: accident
    recover_to: 2026-01-31T11:59:30Z
    stanza: flux
    programs: /usr/lib/postgresql/17/bin
    data_directory: /var/lib/postgresql/17/main
    config_file: /etc/postgresql/17/main/postgresql.conf
  become: true
  become_user: postgres
"""

RETURN = r"""
message:
  description: What was done, in one sentence.
  returned: success
  type: str
  sample: "reached 2026-01-31T11:59:30Z; last transaction 2026-01-31T11:59:29.995Z"
plan:
  description: The backup, the bytes needed and free, and the last segment of the archive.
  returned: when something is restored, or would be
  type: dict
target:
  description: >-
    The evidence of the target - last_transaction, lsn, timeline, last_segment, archived_to, stopped_before.
  returned: with a restored instance
  type: dict
data:
  description: >-
    The evidence of the data - for each database its tables with rows and newest row and the hours held
    against the record, what pg_amcheck said, and what pg_checksums said.
  returned: with a restored instance
  type: dict
problems:
  description: What is wrong with the data, each a sentence.
  returned: with a restored instance
  type: list
  elements: str
connection:
  description: Directory of the socket, and port.
  returned: with a restored instance
  type: dict
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.restore.arguments import INSTALLATION, REQUEST, installation
from ansible.module_utils.stationkeeper.restore.proof import prove
from ansible.module_utils.stationkeeper.restore.request import RestoreError, parse_request
from ansible.module_utils.stationkeeper.restore.scratch import Scratch


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **INSTALLATION,
            **REQUEST,
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "name": {"type": "str", "default": "restore"},
            "base": {"type": "path", "default": "/var/lib/postgresql/stationkeeper-restore"},
            "port": {"type": "int", "default": 5499},
            "databases": {"type": "list", "elements": "str", "default": []},
            "replace": {"type": "bool", "default": False},
            "checksums": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        scratch = Scratch(installation(params), Path(params["base"]), params["name"], params["port"])
        before = scratch.record()
        act = _absent if params["state"] == "absent" else _present
        result = act(module, scratch, before)
    except RestoreError as error:
        module.fail_json(msg=str(error))
    except ImportError as error:
        module.fail_json(
            msg=missing_required_lib("psycopg2 (Debian: python3-psycopg2)"), exception=repr(error)
        )
    module.exit_json(
        **result,
        diff={
            "before": _line(before),
            "after": _line(before) if module.check_mode else _line(scratch.record()),
        },
    )


def _absent(module: AnsibleModule, scratch: Scratch, before: dict[str, Any] | None) -> dict[str, Any]:
    if before is None:
        return {"changed": False, "message": f"there is no scratch instance {scratch.name}"}
    if not module.check_mode:
        scratch.remove()
    would = "would be " if module.check_mode else ""
    return {
        "changed": True,
        "message": f"scratch instance {scratch.name} ({before['target']}) {would}removed",
    }


def _present(module: AnsibleModule, scratch: Scratch, before: dict[str, Any] | None) -> dict[str, Any]:
    params = module.params
    request = parse_request(params["recover_to"], params["backup"], params["databases"])
    finished = before is not None and before["state"] == "ready"
    same = before is not None and before["request"] == request.as_dict()
    kept = finished and same and not params["replace"]
    if finished and not kept and not params["replace"]:
        raise RestoreError(
            f"scratch instance {scratch.name} is there, of {before['target'] if before else ''}; take another"
            " name, or have it removed or replaced"
        )
    result: dict[str, Any] = {"changed": not kept}
    if module.check_mode:
        plan = scratch.plan(request)
        what = f"{request}, from backup {plan.backup.label} of {plan.backup.size >> 20} MiB"
        message = f"would be proven again: {what}" if kept else f"would restore {what}"
        return {**result, "plan": _plan(plan), "message": message}
    if kept:
        scratch.start()
        target = (before or {})["reached"]
    else:
        if finished:
            scratch.remove()
        verdict = scratch.make(request, timeout_s=params["timeout_s"])
        target = {**verdict.evidence, "message": verdict.message}
        if not verdict.reached:
            module.fail_json(msg=verdict.message, target=target, changed=True)
    proof = prove(
        scratch.server,
        request.databases,
        checksums=params["checksums"],
        accept_short_hours=params["accept_short_hours"],
    )
    connection = {"directory": str(scratch.directory), "port": scratch.port}
    result |= {"target": target, "data": proof.evidence, "problems": proof.problems, "connection": connection}
    if proof.problems:
        module.fail_json(msg="; ".join(proof.problems), **result)
    return {**result, "message": target["message"]}


def _plan(plan: Any) -> dict[str, Any]:
    return {
        "backup": plan.backup.label,
        "needed_bytes": plan.needed_bytes,
        "free_bytes": plan.free_bytes,
        "archived_to": plan.archived_to,
    }


def _line(record: dict[str, Any] | None) -> str:
    return "" if record is None else f"{record['state']}: {record['target']}\n"


if __name__ == "__main__":
    main()
