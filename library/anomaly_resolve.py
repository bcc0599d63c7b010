#!/usr/bin/python
"""Ansible module: say what anomalies of telemetry were."""

from __future__ import annotations

DOCUMENTATION = r"""
module: anomaly_resolve
short_description: Resolve anomalies of telemetry
description:
  - Runs on the control node. Says of anomalies what they were and who decided that. Rows in quarantine that
    an anomaly stands for are resolved with it; the readings themselves stay as they are.
  - An id that is unknown, of another site, or was resolved otherwise is refused before anything is touched.
    One that was resolved with the same words is left as it is.
version_added: "0.3.0"
author: Stationkeeper
options:
  database:
    description: Connection of a database user that may write anomalies and the quarantine.
  schema:
    description: Schema of the telemetry tables.
    type: str
    default: flux
  ids:
    description: The anomalies' numbers, as M(anomaly_list) shows them.
    type: list
    elements: int
    required: true
  sites:
    description: Refuse anomalies of other sites. Any when empty.
    type: list
    elements: str
    default: []
  kind:
    description: What they were.
    type: str
    required: true
    choices: [false_positive, maintenance, fixed, accepted]
  resolution:
    description: What it was and what was done, in words.
    type: str
    required: true
  by:
    description: Who decided.
    type: str
    required: true
  margin_s:
    description: Readings from so many seconds before and after each anomaly are shown, 20 at most.
    type: float
    default: 300
extends_documentation_fragment: [database]
attributes:
  check_mode:
    description: Refuses and shows the same, and resolves nothing.
    support: full
  diff_mode:
    description: Shows which anomalies are open before and after.
    support: full
requirements:
  - the Python package C(stationkeeper) on the control node
"""

EXAMPLES = r"""
- name: Say that two anomalies were maintenance
  anomaly_resolve:
    database: "{{ stationkeeper_database | combine(operator) }}"
    ids: [12, 13]
    kind: maintenance
    resolution: fans replaced, see ticket 4711
    by: ops@control
  delegate_to: localhost
"""

RETURN = r"""
resolved:
  description: >-
    The anomalies that were resolved now (in check mode: would be), as they were, each with C(readings), the
    rows of its device around its beginning.
  returned: success
  type: list
  elements: dict
unchanged:
  description: Numbers of those that were resolved with the same words before.
  returned: success
  type: list
  elements: int
"""

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE

try:
    from stationkeeper.telemetry.anomalies_records import Resolution, readings_around, resolve
    from stationkeeper.telemetry.source import TelemetryError, connected

    MISSING = None
except ImportError as error:
    MISSING = str(error)

KINDS = ["false_positive", "maintenance", "fixed", "accepted"]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "dict", "required": True, "options": DATABASE},
            "schema": {"type": "str", "default": "flux"},
            "ids": {"type": "list", "elements": "int", "required": True},
            "sites": {"type": "list", "elements": "str", "default": []},
            "kind": {"type": "str", "required": True, "choices": KINDS},
            "resolution": {"type": "str", "required": True},
            "by": {"type": "str", "required": True},
            "margin_s": {"type": "float", "default": 300},
        },
        supports_check_mode=True,
    )
    if MISSING is not None:
        module.fail_json(
            msg=f"{missing_required_lib('stationkeeper')} On the control node: make setup. ({MISSING})"
        )
    params = module.params
    schema = params["schema"]
    resolution = Resolution(params["kind"], params["resolution"], params["by"])
    try:
        with connected(params["database"]) as connection:
            resolved, unchanged = resolve(
                connection,
                params["ids"],
                resolution,
                sites=params["sites"] or None,
                schema=schema,
                check=module.check_mode,
            )
            shown = [
                {
                    **one.as_dict(),
                    "readings": readings_around(connection, one, margin_s=params["margin_s"], schema=schema),
                }
                for one in resolved
            ]
    except TelemetryError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(resolved),
        resolved=shown,
        unchanged=[one.id for one in unchanged],
        diff={
            "before": "".join(f"{one.id} {one.message}: open\n" for one in resolved),
            "after": "".join(
                f"{one.id} {one.message}: {resolution.kind}, {resolution.text}\n" for one in resolved
            ),
        },
    )


if __name__ == "__main__":
    main()
