#!/usr/bin/python
"""Ansible module: the record of planned maintenance in the database."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: maintenance_record
short_description: Record in the database that planned maintenance of a station begins or ends
description:
  - Runs on the control node. The record explains telemetry that is missing during the maintenance; what
    holds the station itself is the order of the module M(edge_order).
  - A site is under one plan at a time. V(begun) again gives the open one a new end, reason and owner. A plan
    that has already run out is not prolonged afterwards, a new one begins now - the time between the two
    was not planned.
  - Fails when the database cannot be used. A caller for whom the record is not the purpose goes on and
    reports it; the record can be made later, with O(since).
version_added: "0.2.0"
author: Stationkeeper maintainers
options:
  database:
    description: Connection of a user that may write maintenance, C(flux_operator).
  schema:
    description: Schema of the telemetry tables.
    type: str
    default: flux
  site:
    description: Site of the station, as the device registry has it.
    type: str
    required: true
  state:
    description: V(begun) records a plan, V(ended) ends the open one, V(query) only reports it.
    type: str
    choices: [begun, ended, query]
    default: begun
  planned_until:
    description: Planned end, RFC 3339 with an offset from UTC. Required for V(begun).
    type: str
  since:
    description:
      - When the maintenance really began, RFC 3339 with an offset from UTC; C(record.since) of M(edge_order).
        Now when left out.
      - Counts only where no plan is open, and not before the end of the newest recorded one.
    type: str
  reason:
    description: Why. Required for V(begun).
    type: str
  owner:
    description: Who answers for the maintenance. Required for V(begun).
    type: str
  run_id:
    description: Identifier of the run that asks. Required for V(begun).
    type: str
extends_documentation_fragment: [database]
attributes:
  check_mode:
    description: Reads, says what would change, and writes nothing.
    support: full
  diff_mode:
    description: Shows the open maintenance before and after.
    support: full
requirements:
  - the Python package C(stationkeeper) on the control node
"""

EXAMPLES = r"""
- name: Record that the maintenance began
  maintenance_record:
    database: "{{ stationkeeper_database | combine(operator) }}"
    site: WLCE
    state: begun
    since: "{{ order.record.since }}"
    planned_until: "2026-03-29T14:00:00+02:00"
    reason: new fan in the container
    owner: erika@control
    run_id: "{{ runbook_run.id }}"
  vars:
    operator: {user: flux_operator, password: "{{ secret_flux_operator_password }}"}
  delegate_to: localhost

- name: Record that it ended
  maintenance_record:
    database: "{{ stationkeeper_database | combine(operator) }}"
    site: WLCE
    state: ended
  vars:
    operator: {user: flux_operator, password: "{{ secret_flux_operator_password }}"}
  delegate_to: localhost
"""

RETURN = r"""
present:
  description: Whether maintenance of the site is open now, or would be.
  returned: success
  type: bool
record:
  description: >-
    The open maintenance, now or as it would be: id (null while check mode only foresees it), site,
    started_at, planned_until, ended_at, reason, owner, run_id. Null without one.
  returned: success
  type: dict
  sample:
    id: 7
    site: WLCE
    started_at: "2026-03-29T12:00:00Z"
    planned_until: "2026-03-29T14:00:00Z"
    ended_at: null
    reason: new fan in the container
    owner: erika@control
    run_id: 01JD0000000000000000000000
before:
  description: The maintenance that was open before, in the same form. Null without one.
  returned: success
  type: dict
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE

try:
    from stationkeeper.telemetry import maintenance, source

    MISSING = None
except ImportError as error:
    MISSING = str(error)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "dict", "required": True, "options": DATABASE},
            "schema": {"type": "str", "default": "flux"},
            "site": {"type": "str", "required": True},
            "state": {"type": "str", "default": "begun", "choices": ["begun", "ended", "query"]},
            "planned_until": {"type": "str"},
            "since": {"type": "str"},
            "reason": {"type": "str"},
            "owner": {"type": "str"},
            "run_id": {"type": "str"},
        },
        required_if=[("state", "begun", ("planned_until", "reason", "owner", "run_id"))],
        supports_check_mode=True,
    )
    if MISSING is not None:
        module.fail_json(
            msg=f"{missing_required_lib('stationkeeper')} On the control node: make setup. ({MISSING})"
        )
    params = module.params
    try:
        wish = _wish(params) if params["state"] == "begun" else None
        with source.connected(params["database"]) as connection:
            place = {"schema": params["schema"]}
            if wish is not None:
                change = maintenance.begin(connection, wish, check=module.check_mode, **place)
            elif params["state"] == "ended":
                change = maintenance.end(connection, params["site"], check=module.check_mode, **place)
            else:
                change = maintenance.query(connection, params["site"], **place)
    except source.TelemetryError as error:
        module.fail_json(msg=str(error))
    before, after = (state.as_dict() if state else None for state in (change.before, change.after))
    module.exit_json(
        changed=change.changed,
        present=after is not None,
        record=after,
        before=before,
        diff={"before": before or {}, "after": after or {}},
    )


def _wish(params: dict[str, Any]) -> maintenance.Wish:
    return maintenance.Wish(
        site=params["site"],
        planned_until=source.parse_time(params["planned_until"]),
        reason=params["reason"],
        owner=params["owner"],
        run_id=params["run_id"],
        since=source.parse_time(params["since"]) if params["since"] is not None else None,
    )


if __name__ == "__main__":
    main()
