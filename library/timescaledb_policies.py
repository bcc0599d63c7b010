#!/usr/bin/python
"""Ansible module: retention, compression and rollup of a hypertable."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: timescaledb_policies
short_description: Declare retention, compression and rollup of a hypertable, for every edition
description:
  - Runs on the database host. In TimescaleDB's Community edition what is declared becomes its own policies,
    in one transaction, read back afterwards. A policy that differs is replaced.
  - The Apache edition and plain PostgreSQL have no policies. There the module proves that a systemd timer
    does the work instead - the function is in the database, the timer is enabled and active, its service
    calls the function, and for retention with the declared interval. Otherwise it fails, since nobody would
    do the work.
  - Nothing compresses without the Community edition. Compression is reported as unsupported then, and is an
    error only where it is required.
  - What is not declared stays as it is.
version_added: "0.1.0"
author: Stationkeeper maintainers
extends_documentation_fragment: [database_host]
options:
  hypertable:
    description: Table, as C(schema.table).
    type: str
    required: true
  retention:
    description: Rows that are older are dropped, in whole chunks.
    type: dict
    suboptions:
      drop_after:
        description: Age, as an interval of PostgreSQL.
        type: str
        required: true
      by:
        description:
          - V(auto) is a policy where the edition has policies, else a timer.
          - V(timer) is a timer in every edition, and removes a policy. Take it for tables whose rows are
            rolled up or archived before they go, and whose dropping is noted. A policy does none of that.
          - V(policy) fails where the edition has none.
        type: str
        choices: [auto, policy, timer]
        default: auto
      function:
        description: Function that drops, as C(schema.function), with the interval as its argument.
        type: str
      timer:
        description: Name of the systemd timer whose service calls O(retention.function), without C(.timer).
        type: str
  compression:
    description: Chunks that are older are compressed.
    type: dict
    suboptions:
      compress_after:
        description: Age, as an interval of PostgreSQL.
        type: str
        required: true
      segment_by:
        description: Columns whose values each compressed batch has one of.
        type: list
        elements: str
        default: []
      order_by:
        description: Columns in order, each C(column) or C(column DESC), with the column of time among them.
        type: list
        elements: str
        required: true
      required:
        description: Fail where the edition cannot compress.
        type: bool
        default: false
  refresh:
    description: A rollup of the table follows its rows.
    type: dict
    suboptions:
      view:
        description:
          - Rollup, as C(schema.name). A continuous aggregate gets a refresh policy.
          - A table of one's own needs O(refresh.function) and O(refresh.timer) in every edition.
        type: str
        required: true
      start_offset:
        description: How far before now a refresh begins, as an interval.
        type: str
        required: true
      end_offset:
        description: How far before now a refresh ends, as an interval.
        type: str
        required: true
      schedule_interval:
        description: Time between two refreshes, as an interval.
        type: str
        required: true
      function:
        description: Function that refreshes, as C(schema.function).
        type: str
      timer:
        description: Name of the systemd timer whose service calls O(refresh.function), without C(.timer).
        type: str
  absent:
    description: Policies to remove. Chunks that are compressed stay so.
    type: list
    elements: str
    choices: [retention, compression]
    default: []
  owner:
    description: Role that owns the table and the policies.
    type: str
requirements: [python3-psycopg2]
attributes:
  check_mode:
    support: full
    description: Lists what would be done and changes nothing.
  diff_mode:
    support: full
    description: Shows the policies before and after.
"""

EXAMPLES = r"""
- name: Keep the readings for 90 days, compressed after a week where the edition can
  timescaledb_policies:
    database: flux
    owner: flux_owner
    hypertable: flux.mg_meter_readings
    retention:
      drop_after: 90 days
      by: timer
      function: flux.apply_retention
      timer: flux-retention
    compression: {compress_after: 7 days, segment_by: [device_id], order_by: [time DESC]}
    refresh:
      view: flux.mg_meter_readings_5m_intermediate
      start_offset: 6 hours
      end_offset: 1 second
      schedule_interval: 5 minutes
      function: flux.refresh_meter_readings_5m
      timer: flux-rollup
  become: true
  become_user: postgres
"""

RETURN = r"""
edition:
  description: V(community), V(apache) or V(plain).
  returned: success
  type: str
actions:
  description: What was done, or would be in check mode.
  returned: success
  type: list
  elements: str
enforced_by:
  description: For each declared thing that the edition can do, V(policy) or V(timer).
  returned: success
  type: dict
  sample: {retention: timer, refresh: timer}
unsupported_by_edition:
  description: What is declared and cannot be had in this edition.
  returned: success
  type: list
  elements: str
  sample: [compression]
"""

import json
from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE_HOST, host_settings
from ansible.module_utils.stationkeeper.database.connection import connect
from ansible.module_utils.stationkeeper.database.policies import converge
from ansible.module_utils.stationkeeper.database.policy_declaration import (
    Compression,
    Declaration,
    PolicyError,
    Refresh,
    Retention,
    Worker,
)

WORKER = {"function": {"type": "str"}, "timer": {"type": "str"}}
SPEC: dict[str, Any] = {
    "hypertable": {"type": "str", "required": True},
    "retention": {
        "type": "dict",
        "options": {
            "drop_after": {"type": "str", "required": True},
            "by": {"type": "str", "choices": ["auto", "policy", "timer"], "default": "auto"},
            **WORKER,
        },
        "required_together": [("function", "timer")],
    },
    "compression": {
        "type": "dict",
        "options": {
            "compress_after": {"type": "str", "required": True},
            "segment_by": {"type": "list", "elements": "str", "default": []},
            "order_by": {"type": "list", "elements": "str", "required": True},
            "required": {"type": "bool", "default": False},
        },
    },
    "refresh": {
        "type": "dict",
        "options": {
            "view": {"type": "str", "required": True},
            "start_offset": {"type": "str", "required": True},
            "end_offset": {"type": "str", "required": True},
            "schedule_interval": {"type": "str", "required": True},
            **WORKER,
        },
        "required_together": [("function", "timer")],
    },
    "absent": {
        "type": "list",
        "elements": "str",
        "choices": ["retention", "compression"],
        "default": [],
    },
    **DATABASE_HOST,
    "owner": {"type": "str"},
}


def _worker(section: dict[str, Any]) -> Worker | None:
    function, timer = section.pop("function"), section.pop("timer")
    return Worker(function, timer) if function else None


def _declaration(params: dict[str, Any]) -> Declaration:
    retention, compression, refresh = (
        dict(params[name]) if params[name] else None for name in ("retention", "compression", "refresh")
    )
    return Declaration(
        params["hypertable"],
        Retention(worker=_worker(retention), **retention) if retention else None,
        Compression(
            compression["compress_after"],
            tuple(compression["segment_by"]),
            tuple(compression["order_by"]),
            compression["required"],
        )
        if compression
        else None,
        Refresh(worker=_worker(refresh), **refresh) if refresh else None,
        frozenset(params["absent"]),
    )


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)

    def read_timer(name: str) -> str | None:
        states = module.run_command(
            ["systemctl", "show", "--property=UnitFileState", "--property=ActiveState", f"{name}.timer"]
        )[1].split()
        if sorted(states) != ["ActiveState=active", "UnitFileState=enabled"]:
            return None
        return str(module.run_command(["systemctl", "cat", f"{name}.service"], check_rc=True)[1])

    settings = host_settings(module.params)
    try:
        wanted = _declaration(module.params)
        connection = connect(settings)
        try:
            result = converge(
                connection,
                wanted,
                read_timer=read_timer,
                check=module.check_mode,
                owner=module.params["owner"],
            )
        finally:
            connection.close()
    except PolicyError as error:
        module.fail_json(msg=str(error))
    except ImportError as error:
        module.fail_json(
            msg=missing_required_lib("psycopg2 (Debian: python3-psycopg2)"), exception=repr(error)
        )
    except Exception as error:
        # psycopg2's own classes: the driver may be missing, so they cannot be named here.
        module.fail_json(msg=f"database {settings['name']}: {str(error).strip()}")
    module.exit_json(
        changed=bool(result.actions),
        edition=result.edition,
        actions=list(result.actions),
        enforced_by=result.enforced_by,
        unsupported_by_edition=list(result.unsupported_by_edition),
        diff={
            "before": json.dumps(result.before, indent=2) + "\n",
            "after": json.dumps(result.after, indent=2) + "\n",
        },
    )


if __name__ == "__main__":
    main()
