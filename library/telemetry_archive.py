#!/usr/bin/python
"""Ansible module: whole days of a site's telemetry, archived, read back and recorded."""

from __future__ import annotations

DOCUMENTATION = r"""
module: telemetry_archive
short_description: Archive whole days of a site, and record that they are archived
description:
  - Runs on the control node. First holds the archives that were recorded from this host against their
    records - those of the days asked for, and all that retention may still act upon. One that is gone or
    changed is noted in its record, which does not count any more then, and is a failure.
  - Then writes an archive of each day that has none, reads it back, and records it. Retention drops only
    days that are recorded with as many rows as there are.
  - An archive is never overwritten. A day whose rows became more gets one more archive beside the first.
  - A day that cannot be archived does not keep the others from it; the module fails at the end.
version_added: "0.3.0"
author: Stationkeeper
options:
  database:
    description: Connection of a database user that may write the records and make temporary tables.
  schema:
    description: Schema of the telemetry tables.
    type: str
    default: flux
  directory:
    description: Directory of the archives, one below it for each site and day. Created when missing.
    type: path
    required: true
  site:
    description: Site whose devices are archived.
    type: str
    required: true
  last_day:
    description: Last day (UTC), as C(2026-01-31).
    type: str
    required: true
  days:
    description: Number of days that end with it.
    type: int
    default: 7
  format:
    description: Format of the files.
    type: str
    default: parquet
    choices: [parquet, csv]
extends_documentation_fragment: [database]
attributes:
  check_mode:
    description: Looks at everything, and writes neither files nor records.
    support: full
  diff_mode:
    description: The rows are not shown.
    support: none
requirements:
  - the Python package C(stationkeeper) on the control node
"""

EXAMPLES = r"""
- name: Archive the week that ended a month ago
  telemetry_archive:
    database: "{{ stationkeeper_database | combine(operator) }}"
    directory: "{{ stationkeeper_state }}/archive/telemetry"
    site: WLCE
    last_day: "2026-01-31"
  delegate_to: localhost
"""

RETURN = r"""
rows:
  description: Rows of each day's archive, by its directory.
  returned: success
  type: dict
written:
  description: Number of days archived now.
  returned: success
  type: int
recorded:
  description: Number of days recorded now.
  returned: success
  type: int
verified:
  description: Number of recorded archives that are as they were recorded.
  returned: success
  type: int
"""

from datetime import date, timedelta
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE

try:
    from stationkeeper.telemetry.archived import archive_days
    from stationkeeper.telemetry.source import TelemetryError, connected

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
            "site": {"type": "str", "required": True},
            "last_day": {"type": "str", "required": True},
            "days": {"type": "int", "default": 7},
            "format": {"type": "str", "default": "parquet", "choices": ["parquet", "csv"]},
        },
        supports_check_mode=True,
    )
    if MISSING is not None:
        module.fail_json(
            msg=f"{missing_required_lib('stationkeeper')} On the control node: make setup. ({MISSING})"
        )
    params = module.params
    try:
        last = date.fromisoformat(params["last_day"])
    except ValueError:
        module.fail_json(msg=f"last_day is {params['last_day']!r}, no day such as 2026-01-31")
    if params["days"] < 1:
        module.fail_json(msg=f"days is {params['days']}; archive at least one")
    try:
        with connected(params["database"]) as connection:
            done = archive_days(
                connection,
                Path(params["directory"]),
                params["site"],
                [last - timedelta(days=back) for back in range(params["days"])],
                format=params["format"],
                schema=params["schema"],
                dry_run=module.check_mode,
            )
    except TelemetryError as error:
        module.fail_json(msg=str(error))
    result = {
        "changed": done.changed,
        "rows": done.rows,
        "written": done.written,
        "recorded": done.recorded,
        "verified": done.verified,
    }
    if done.problems:
        module.fail_json(msg="; ".join(done.problems), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
