#!/usr/bin/python
"""Ansible module: take the credentials of a vault one step further in their rotation."""

from __future__ import annotations

DOCUMENTATION = r"""
module: credential_rotation
short_description: Take credentials one step further in their rotation
description:
  - Runs on the control node. Each step is a state of the vault, written as a whole - with C(create) the next
    value is accepted besides the one in use, with C(switch) it is used and the one before is accepted, with
    C(retire) the one before is gone.
  - Credentials that are not in the state which the step follows are left as they are, so a run that was
    killed is repeated.
  - Returns no value of a secret. The play reads the vault again after each step.
version_added: "0.6.0"
author: Stationkeeper
options:
  inventory:
    description: The inventory's directory.
    type: path
    required: true
  declared:
    description: What the inventory declares, as in C(stationkeeper_rotations).
    type: dict
    required: true
  hosts:
    description: The hosts of each group.
    type: dict
    required: true
  only:
    description: Names of credentials. Those that are in the middle of a rotation when empty.
    type: list
    elements: str
    default: []
  step:
    description: The step. C(read) changes nothing.
    type: str
    choices: [read, create, switch, retire]
    default: read
attributes:
  check_mode:
    description: Says what would change.
    support: full
  diff_mode:
    description: Names the credentials with their states.
    support: full
requirements:
  - the Python package C(stationkeeper) on the control node
"""

EXAMPLES = r"""
- name: Have the next password accepted
  credential_rotation:
    inventory: "{{ inventory_dir }}"
    declared: "{{ stationkeeper_rotations }}"
    hosts: "{{ groups }}"
    only: [redis_flux]
    step: create
  delegate_to: localhost
"""

RETURN = r"""
rotations:
  description: >-
    For each credential its kind, variable, user, the login in use and the other one of the two values,
    servers, clients (roles by host), phase (settled, created or switched) and since when its value is used;
    in check mode as they are before the step.
  returned: success
  type: dict
  sample:
    redis_flux:
      {kind: redis, variable: secret_redis_flux_password, user: flux, login: flux, other: flux,
       servers: [fluxhub], clients: {fluxhub: [telemetry_jobs]}, phase: settled,
       since: "2026-11-22T10:00:00+00:00"}
"""

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

try:
    from stationkeeper.secrets import rotation
    from stationkeeper.secrets.credentials import (
        CredentialError,
        Rotation,
        rotations,
        wanted,
    )
    from stationkeeper.secrets.files import change, random_value
    from stationkeeper.secrets.rotation import RotationError
    from stationkeeper.secrets.vault import SecretsError, folder_of
except ImportError:
    change = None  # type: ignore[assignment]  # reported below, with how to install it


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "inventory": {"type": "path", "required": True},
            "declared": {"type": "dict", "required": True},
            "hosts": {"type": "dict", "required": True},
            "only": {"type": "list", "elements": "str", "default": []},
            "step": {"type": "str", "choices": ["read", "create", "switch", "retire"], "default": "read"},
        },
        supports_check_mode=True,
    )
    if change is None:
        module.fail_json(msg="the stationkeeper package is missing on the control node: run `make setup`")
    given = module.params
    folder = folder_of(Path(given["inventory"]))

    seen: list[dict[str, dict[str, object]]] = []

    def step(values: dict[str, str]) -> dict[str, str]:
        before = wanted(rotations(given["declared"], given["hosts"], values), given["only"])
        for one in before.values():
            values = _stepped(values, one, given["step"])
        after = rotations(given["declared"], given["hosts"], values)
        seen[:] = [{name: asdict(state[name]) for name in before} for state in (before, after)]
        return values

    try:
        changed = change(folder, step, dry_run=module.check_mode)
    except (SecretsError, RotationError, CredentialError, OSError) as error:
        module.fail_json(msg=str(error))
    before, after = ("".join(f"{name}: {one['phase']}\n" for name, one in state.items()) for state in seen)
    # A preview goes on with what is there.
    now = seen[0] if module.check_mode else seen[1]
    module.exit_json(changed=changed, rotations=now, diff={"before": before, "after": after})


def _stepped(values: dict[str, str], one: Rotation, step: str) -> dict[str, str]:
    """Return the vault after a step, where the step follows."""
    match step, one.phase:
        case "create", "settled":
            return rotation.create(values, one.variable, random_value())
        case "switch", "created":
            return rotation.switch(values, one.variable, datetime.now(UTC), one.next_suffix)
        case "retire", "switched":
            return rotation.retire(values, one.variable)
    return values


if __name__ == "__main__":
    main()
