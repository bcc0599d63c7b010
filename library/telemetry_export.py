#!/usr/bin/python
"""Ansible module: the rows of a window as an archive with a manifest."""

from __future__ import annotations

DOCUMENTATION = r"""
module: telemetry_export
short_description: Write the rows of a window to an archive, and read it back
description:
  - Runs on the control node. Writes one file for each device and day (UTC), Parquet or CSV, and a
    manifest with the checksum of every file, and count and checksum of every hour as the database
    computes them.
  - All rows come from one state of the database. The manifest is written last, so a directory without
    one is no archive.
  - An archive is never overwritten. One that holds just these rows stays untouched.
  - A window without rows makes no archive.
version_added: "0.2.0"
author: Stationkeeper
options:
  database:
    description: >-
      Connection of a database user that may read telemetry; with O(read_back) also make temporary
      tables.
  schema:
    description: Schema of the telemetry tables.
    type: str
    default: flux
  directory:
    description: Directory of the archive. Created when missing, for the owner only.
    type: path
    required: true
  from:
    description: Start of the window, RFC 3339 with an offset from UTC.
    type: str
    required: true
  to:
    description: End of the window, not part of it.
    type: str
    required: true
  sites:
    description: Only devices of these sites. All when empty.
    type: list
    elements: str
    default: []
  format:
    description: Format of the files.
    type: str
    default: parquet
    choices: [parquet, csv]
  read_back:
    description: Read the archive back into a temporary table, and hold every hour against the manifest.
    type: bool
    default: false
extends_documentation_fragment: [database]
attributes:
  check_mode:
    description: Counts the rows and files, and writes none.
    support: full
  diff_mode:
    description: The rows are not shown.
    support: none
requirements:
  - the Python package C(stationkeeper) on the control node
"""

EXAMPLES = r"""
- name: Archive a day
  telemetry_export:
    database: "{{ stationkeeper_database | combine(reader) }}"
    directory: "{{ stationkeeper_state }}/archive/2026-01-05"
    from: "2026-01-05T00:00:00Z"
    to: "2026-01-06T00:00:00Z"
    read_back: true
  delegate_to: localhost
"""

RETURN = r"""
directory:
  description: Directory of the archive.
  returned: success
  type: str
rows:
  description: Number of rows in the window.
  returned: success
  type: int
devices:
  description: Number of devices that have rows in the window.
  returned: success
  type: int
files:
  description: Number of files.
  returned: success
  type: int
rows_read_back:
  description: Number of rows that came back as they were archived.
  returned: with O(read_back) and rows, not in check mode
  type: int
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE

try:
    from stationkeeper.telemetry.backfill.export import export, read_back
    from stationkeeper.telemetry.source import TelemetryError, connected, parse_time, reading

    MISSING = None
except ImportError as error:
    MISSING = str(error)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "dict", "required": True, "options": DATABASE},
            "schema": {"type": "str", "default": "flux"},
            "directory": {"type": "path", "required": True},
            "from": {"type": "str", "required": True},
            "to": {"type": "str", "required": True},
            "sites": {"type": "list", "elements": "str", "default": []},
            "format": {"type": "str", "default": "parquet", "choices": ["parquet", "csv"]},
            "read_back": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    if MISSING is not None:
        module.fail_json(
            msg=f"{missing_required_lib('stationkeeper')} On the control node: make setup. ({MISSING})"
        )
    params = module.params
    directory = Path(params["directory"])
    try:
        with reading(params["database"]) as connection:
            done = export(
                connection,
                directory,
                parse_time(params["from"]),
                parse_time(params["to"]),
                sites=params["sites"] or None,
                format=params["format"],
                schema_name=params["schema"],
                dry_run=module.check_mode,
            )
        result = {"rows": done.rows, "devices": done.devices, "files": done.files}
        if params["read_back"] and done.rows and not module.check_mode:
            with connected(params["database"]) as connection:
                result["rows_read_back"] = read_back(connection, directory, schema_name=params["schema"])
    except TelemetryError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=done.changed, directory=str(directory), **result)


if __name__ == "__main__":
    main()
