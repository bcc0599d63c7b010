#!/usr/bin/python
"""Ansible module: make this host's standby the primary, or stop and fence the old primary."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: database_cluster_promote
short_description: Make the PostgreSQL cluster of a host the primary, or fence it
description:
  - V(primary) promotes the running standby, or starts the stopped primary, and makes a slot for each host
    that follows.
  - V(fenced) stops the server and writes C(disabled) into start.conf, so that nothing but a rejoin or a
    failover starts it.
  - V(released) takes that back and starts the server as what it was - the way back before a promotion.
  - Decides nothing. That no other host is primary, the caller has to know.
  - Runs as root.
author: Stationkeeper maintainers
options:
  state:
    description: What the host has to be.
    type: str
    choices: [primary, fenced, released]
    required: true
  cluster:
    description: Name of the cluster.
    type: str
    default: main
  slots:
    description: Replication slots that the new primary has to have.
    type: list
    elements: str
    default: []
  stopped:
    description:
      - With V(primary), the C(node) that V(fenced) returned on the old primary. A standby is promoted only
        when that one stopped cleanly and all of its log was replayed here, which is waited for. Otherwise
        the module fails, RV(tried) is false, and nothing was promoted.
    type: dict
  wait:
    description:
      - With V(fenced), wait until the server's process has ended. Otherwise only until it has written its
        last record and takes nothing more (C(node.state) is C(shut down)); it may still be archiving.
    type: bool
    default: true
  alone:
    description: In synchronous mode, let it commit without a standby until one follows again.
    type: bool
    default: false
attributes:
  check_mode:
    description: Says what it would do.
    support: full
  diff_mode:
    description: Shows the role before and after.
    support: full
"""

EXAMPLES = r"""
- name: Promote the standby
  database_cluster_promote:
    state: primary
    slots: [fluxdb1]
"""

RETURN = r"""
node:
  description: What the host is afterwards, as M(database_node) has it.
  type: dict
  returned: always
tried:
  description: Whether a promotion may have happened although the module failed.
  type: bool
  returned: failure
seconds:
  description: How long PostgreSQL took for it.
  type: float
  returned: always
"""

import subprocess
import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.database.cluster.control import (
    ControlError,
    LaggingError,
    caught_up,
    declare_start,
    end_writes,
    ending,
    promote,
    start,
    stop,
    wait_for,
)
from ansible.module_utils.stationkeeper.database.cluster.node import look


def _primary(module: AnsibleModule, node: dict[str, Any]) -> bool:
    """Make it the primary and return whether that changed anything."""
    slots = set(module.params["slots"])
    done = node["role"] == "primary" and slots <= {slot["name"] for slot in node["slots"]}
    if done or module.check_mode:
        return not done
    if not node["running"]:
        declare_start(node, "manual")
        start(node)
        node = wait_for(node, ("primary", "standby"), timeout_s=60)
    if module.params["stopped"] is not None and node["role"] == "standby":
        caught_up(node, module.params["stopped"])
    declare_start(node, "manual")
    promote(node, slots, alone=module.params["alone"])
    return True


def _fenced(module: AnsibleModule, node: dict[str, Any]) -> bool:
    done = not node["running"] and node["start"] == "disabled"
    if done or module.check_mode:
        return not done
    # First: whatever starts it again from here on is refused.
    declare_start(node, "disabled")
    if node["running"] and module.params["wait"]:
        stop(node)
    elif node["running"] and not ending(node):
        end_writes(node)
    return True


def _released(module: AnsibleModule, node: dict[str, Any]) -> bool:
    done = node["running"] and node["start"] != "disabled" and not ending(node)
    if done or module.check_mode:
        return not done
    if ending(node):
        stop(node)
        node = look(module.params["cluster"])
    declare_start(node, "manual")
    if not node["running"]:
        start(node)
    return True


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["primary", "fenced", "released"], "required": True},
            "cluster": {"type": "str", "default": "main"},
            "slots": {"type": "list", "elements": "str", "default": []},
            "stopped": {"type": "dict"},
            "wait": {"type": "bool", "default": True},
            "alone": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    node = look(module.params["cluster"])
    if not node["exists"]:
        module.fail_json(msg="there is no database on this host: run site.yml, or database_add_standby")
    act = {"primary": _primary, "fenced": _fenced, "released": _released}[module.params["state"]]
    began = time.monotonic()
    try:
        changed = act(module, node)
    except LaggingError as error:
        module.fail_json(msg=str(error), tried=False)
    except (ControlError, OSError, subprocess.SubprocessError) as error:
        module.fail_json(msg=str(error), tried=True)
    seconds = round(time.monotonic() - began, 3)
    after = look(module.params["cluster"])
    diff = {"before": f"{node['role']}, {node['start']}\n", "after": f"{after['role']}, {after['start']}\n"}
    module.exit_json(changed=changed, node=after, seconds=seconds, diff=diff)


if __name__ == "__main__":
    main()
