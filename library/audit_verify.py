#!/usr/bin/python
"""Ansible module: whether the audit trail of this control node is whole."""

from __future__ import annotations

DOCUMENTATION = r"""
module: audit_verify
short_description: Check the audit trail of this control node
description:
  - Runs on the control node. Checks every record of the chain and of the chains that were put away (hash,
    signature, order, link to the one before, signed end), and compares the chain with its copies in the
    database.
  - A trail that is not in order is a result, not a failure of the module. Writes nothing.
version_added: "0.6.0"
author: Stationkeeper
options:
  directory:
    description: Folder of the chain. That of this control node's state by default.
    type: path
  keys:
    description:
      - Folder of the public keys that are trusted, best a copy that lies elsewhere. Those beside the chain by
        default.
    type: path
  copies:
    description: Whether to compare with C(ops.audit), by the connection that site.yml has set up.
    type: bool
    default: true
attributes:
  check_mode:
    description: Writes nothing.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Check the audit trail
  audit_verify:
    keys: /media/evidence/keys
  register: trail
"""

RETURN = r"""
ok:
  description: Whether nothing is wrong, and no run that has died is without an end.
  returned: success
  type: bool
records:
  description: Number of records in the chain.
  returned: success
  type: int
compared:
  description: Number of copies that were compared; not set without O(copies).
  returned: success
  type: int
not_shipped:
  description: Number of records that have no copy yet; not set without O(copies).
  returned: success
  type: int
problems:
  description: What is wrong, a sentence each, with the number of the record where one is meant.
  returned: success
  type: list
  elements: str
archives:
  description: Number of chains that were put away.
  returned: success
  type: int
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

try:
    from stationkeeper.audit import ship
    from stationkeeper.audit.archives import verify_archives
    from stationkeeper.audit.chain import Chain, ChainError, chain_id
    from stationkeeper.audit.keys import KeyFileError
    from stationkeeper.audit.paths import AuditPaths
    from stationkeeper.audit.verify import verify
    from stationkeeper.database.settings_file import SettingsFileError, read_settings
except ImportError:
    ship = None  # type: ignore[assignment]  # reported below, with how to install it


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path"},
            "keys": {"type": "path"},
            "copies": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    if ship is None:
        module.fail_json(msg="the stationkeeper package is missing on the control node: run `make setup`")
    given = module.params
    paths = AuditPaths.at(given["directory"])
    keys = Path(given["keys"]) if given["keys"] else paths.keys
    try:
        # Not while somebody appends: chain, head and copies have to be of one moment.
        with Chain(paths).locked():
            report = verify(paths.chain, keys, rows=_copies(paths) if given["copies"] else None)
            archives = verify_archives(paths, keys)
    except (ChainError, KeyFileError, ship.ShipError, SettingsFileError, OSError) as error:
        module.fail_json(msg=f"the audit trail cannot be checked: {error}")
    ends = [
        f"run {run.run_id} of {run.playbook}, started {run.started_at}, has no end (process {run.state})"
        for run in report.open_runs
        if run.state != "alive"
    ]
    old = [f"{name}: {one.message}" for name, other in archives.items() for one in other.findings]
    problems = [finding.message for finding in report.findings] + ends + old
    module.exit_json(
        changed=False,
        ok=not problems,
        records=report.records,
        compared=report.compared,
        not_shipped=report.not_shipped,
        archives=len(archives),
        problems=problems,
    )


def _copies(paths: AuditPaths) -> list[ship.StoredRow]:
    settings = ship.settings_file(paths)
    if settings is None:
        raise ship.ShipError("no connection to the copies is set up: site.yml writes it")
    return ship.fetch(read_settings(settings), chain_id(paths.chain))


if __name__ == "__main__":
    main()
