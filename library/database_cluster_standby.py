#!/usr/bin/python
"""Ansible module: have the PostgreSQL cluster of this host follow a primary."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: database_cluster_standby
short_description: Have the PostgreSQL cluster of a host follow a primary
description:
  - Makes a streaming standby of whatever is on the host - nothing, a standby, or a former primary. What the
    host held is never deleted - it is kept beside the new data under a dated name wherever it differs.
  - Tells what a former primary has that its successor has not, from its log after they parted.
  - A run that was killed anywhere is finished by the next one. Runs as root. The password of O(user) and
    O(rewind_user) stands in C(~postgres/.pgpass), the settings of the connection in the cluster's own files.
author: Stationkeeper maintainers
options:
  primary:
    description: Address of the primary.
    type: str
    required: true
  port:
    description: Port of the primary.
    type: int
    default: 5432
  slot:
    description: Replication slot of this host on the primary. Made where it is missing.
    type: str
    required: true
  version:
    description: Major version of the server.
    type: int
    required: true
  cluster:
    description: Name of the cluster.
    type: str
    default: main
  user:
    description: Role for streaming.
    type: str
    default: replicator
  rewind_user:
    description: Role for pg_rewind.
    type: str
    default: rewind
  method:
    description:
      - V(clone) copies the primary. V(rewind) brings only what differs, by pg_rewind.
      - V(auto) follows with the data as they are unless they diverged, else tries pg_rewind, else copies.
        V(follow) fails where they diverged.
    type: str
    choices: [auto, follow, rewind, clone]
    default: auto
attributes:
  check_mode:
    description: Says whether it would do something, and touches nothing.
    support: full
  diff_mode:
    description: Shows the steps.
    support: full
"""

EXAMPLES = r"""
- name: Follow the primary
  database_cluster_standby:
    primary: 10.78.40.11
    slot: fluxdb2
    version: 17
"""

RETURN = r"""
method:
  description: C(follow) (the data were good as they are), C(rewind) or C(clone).
  type: str
  returned: always
kept:
  description: Where the old data are kept, if they are.
  type: str
  returned: always
kept_bytes:
  description: Size of what is kept.
  type: int
  returned: always
diverged_at:
  description: Position in the log where the primary's history left that of the old data.
  type: str
  returned: always
lost_transactions:
  description: Transactions committed in the old data after that, which the primary does not have.
  type: int
  returned: always
lost_bytes:
  description: Bytes of log after that.
  type: int
  returned: always
steps:
  description: What was done.
  type: list
  elements: str
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.database.cluster.control import ControlError
from ansible.module_utils.stationkeeper.database.cluster.standby import Rejoin, Wanted


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "primary": {"type": "str", "required": True},
            "port": {"type": "int", "default": 5432},
            "slot": {"type": "str", "required": True},
            "version": {"type": "int", "required": True},
            "cluster": {"type": "str", "default": "main"},
            "user": {"type": "str", "default": "replicator"},
            "rewind_user": {"type": "str", "default": "rewind"},
            "method": {"type": "str", "choices": ["auto", "follow", "rewind", "clone"], "default": "auto"},
        },
        supports_check_mode=True,
    )
    rejoin = Rejoin(Wanted(**module.params))
    if module.check_mode:
        module.exit_json(**rejoin.outcome.as_dict() | {"changed": not rejoin.follows()})
    try:
        outcome = rejoin.run()
    except (ControlError, OSError) as error:
        module.fail_json(msg=str(error), **rejoin.outcome.as_dict())
    result = outcome.as_dict()
    if module._diff and outcome.changed:
        result["diff"] = {
            "prepared": "\n".join([*outcome.steps, f"method {outcome.method}, kept {outcome.kept}"])
        }
    module.exit_json(**result)


if __name__ == "__main__":
    main()
