#!/usr/bin/python
"""Ansible module: anomalies of telemetry, as they are in the table."""

from __future__ import annotations

DOCUMENTATION = r"""
module: anomaly_list
short_description: List anomalies of telemetry
description:
  - Runs on the control node. Lists what the job C(anomaly_detection) found and nobody has resolved, the
    worst and oldest first.
version_added: "0.3.0"
author: Stationkeeper
options:
  database:
    description: Connection of a user that may read telemetry.
  schema:
    description: Schema of the telemetry tables.
    type: str
    default: flux
  sites:
    description: Only devices of these sites. All when empty.
    type: list
    elements: str
    default: []
  devices:
    description: Only these devices, by name. All when empty.
    type: list
    elements: str
    default: []
  severity:
    description: Only this severity or worse.
    type: str
    default: info
    choices: [info, warning, critical]
  older_than_hours:
    description: Only those that were detected at least so many hours ago.
    type: float
  resolved:
    description: List the resolved ones, too.
    type: bool
    default: false
extends_documentation_fragment: [database]
attributes:
  check_mode:
    description: Reads only, so it does the same.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
requirements:
  - the Python package C(stationkeeper) on the control node
"""

EXAMPLES = r"""
- name: List what needs somebody now
  anomaly_list:
    database: "{{ stationkeeper_database | combine(reader) }}"
    severity: critical
  vars:
    reader: {user: flux_reader, password: "{{ secret_flux_reader_password }}"}
  delegate_to: localhost
"""

RETURN = r"""
anomalies:
  description: >-
    For each its id, device, site, metric, kind, severity, from and to (RFC 3339, UTC), value, expected_low,
    expected_high, evidence, detected_at, resolved (null, or at, by, as and text) and message.
  returned: success
  type: list
  elements: dict
counts:
  description: Number of each severity.
  returned: success
  type: dict
  sample: {info: 3, warning: 1, critical: 0}
table:
  description: The same for a terminal, line by line.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE

try:
    from stationkeeper.telemetry import anomalies, anomalies_records, source

    MISSING = None
except ImportError as error:
    MISSING = str(error)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "dict", "required": True, "options": DATABASE},
            "schema": {"type": "str", "default": "flux"},
            "sites": {"type": "list", "elements": "str", "default": []},
            "devices": {"type": "list", "elements": "str", "default": []},
            "severity": {"type": "str", "default": "info", "choices": ["info", "warning", "critical"]},
            "older_than_hours": {"type": "float"},
            "resolved": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    if MISSING is not None:
        module.fail_json(
            msg=f"{missing_required_lib('stationkeeper')} On the control node: make setup. ({MISSING})"
        )
    params = module.params
    try:
        with source.reading(params["database"]) as connection:
            found = anomalies_records.find(
                connection,
                sites=params["sites"] or None,
                devices=params["devices"] or None,
                least=params["severity"],
                older_than_h=params["older_than_hours"],
                resolved=params["resolved"],
                schema=params["schema"],
            )
    except source.TelemetryError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        anomalies=[one.as_dict() for one in found],
        counts=anomalies.counts(found),
        table=anomalies.describe(found).splitlines(),
    )


if __name__ == "__main__":
    main()
