#!/usr/bin/python
"""Ansible module: the rows of retired devices as CSV files."""

from __future__ import annotations

DOCUMENTATION = r"""
module: device_archive
short_description: Write a retired device's rows to a CSV file with its checksum
description:
  - Runs on the control node. The database itself writes the rows (COPY), oldest first, times in UTC.
  - Beside the file lie its SHA-256 (for C(sha256sum -c)) and the device's registry row. The rows stay in the
    database.

version_added: "0.1.0"
author: Stationkeeper
options:
  database:
    description: Connection of a database user that may read telemetry.
  devices:
    description: Names of retired devices.
    type: list
    elements: str
    required: true
  directory:
    description: Where the files go. Created when missing, for the owner only.
    type: path
    required: true
extends_documentation_fragment: [database]
attributes:
  check_mode:
    description: Says which files would be written, and writes none.
    support: full
  diff_mode:
    description: The rows are not shown.
    support: none
requirements:
  - the Python package C(stationkeeper) on the control node
"""

EXAMPLES = r"""
- name: Archive what the retired battery measured
  device_archive:
    database: "{{ stationkeeper_database | combine(reader) }}"
    devices: [WLCE-BESS-01]
    directory: "{{ stationkeeper_state }}/archive"
  delegate_to: localhost
"""

RETURN = r"""
archives:
  description: For each device path, sha256 (empty in check mode), rows and changed.
  returned: success
  type: dict
"""

from dataclasses import asdict
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE

try:
    from stationkeeper.devices.archive import archive
    from stationkeeper.telemetry.source import TelemetryError

    MISSING = None
except ImportError as error:
    MISSING = str(error)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "dict", "required": True, "options": DATABASE},
            "devices": {"type": "list", "elements": "str", "required": True},
            "directory": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    if MISSING is not None:
        module.fail_json(
            msg=f"{missing_required_lib('stationkeeper')} On the control node: make setup. ({MISSING})"
        )
    params = module.params
    directory = Path(params["directory"])
    done = {}
    try:
        for name in params["devices"]:
            done[name] = archive(params["database"], name, directory, dry_run=module.check_mode)
    except (TelemetryError, OSError) as error:
        module.fail_json(msg=str(error), changed=any(entry.changed for entry in done.values()))
    module.exit_json(
        changed=any(entry.changed for entry in done.values()),
        archives={name: {**asdict(entry), "path": str(entry.path)} for name, entry in done.items()},
    )


if __name__ == "__main__":
    main()
