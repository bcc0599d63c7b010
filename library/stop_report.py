#!/usr/bin/python
"""Ansible module: the report of an emergency stop."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stop_report
short_description: Write the report of an emergency stop as JSON and text
description:
  - Runs on the control node and writes C(<time>-<run>.json) and C(.txt) with the time of every step.
  - When the directory takes no file, the report goes to one for temporary files, with a warning.
version_added: "0.1.0"
author: Stationkeeper
options:
  directory:
    description: Directory of the reports, by convention C(stops) in the state directory.
    type: path
    required: true
  system:
    description: Name of the system.
    type: str
    required: true
  run:
    description: The fact C(runbook_run).
    type: dict
    required: true
  stations:
    description: The stations' results, as the filter P(edge_stop_report#filter) returns them.
    type: list
    elements: dict
    required: true
requirements: [stationkeeper]
attributes:
  check_mode:
    description: Writes nothing.
    support: full
  diff_mode:
    description: A new file each time, so there is nothing to compare.
    support: none
"""

EXAMPLES = r"""
- name: Write the report
  stop_report:
    directory: "{{ runbook_run.state_directory }}/stops"
    system: "{{ stationkeeper_system }}"
    run: "{{ runbook_run }}"
    stations: "{{ hostvars | edge_stop_report(runbook_run) }}"
"""

RETURN = r"""
path:
  description: The JSON file; null in check mode.
  returned: success
  type: str
lines:
  description: How many stations are proven stopped, and whom to call for the others.
  returned: success
  type: list
  elements: str
"""

from datetime import UTC, datetime
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

try:
    from stationkeeper.stopping import report as reports
except ImportError:
    reports = None  # type: ignore[assignment]  # reported below, with how to install it


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "system": {"type": "str", "required": True},
            "run": {"type": "dict", "required": True},
            "stations": {"type": "list", "elements": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    if reports is None:
        module.fail_json(msg="the stationkeeper package is missing on the control node: run `make setup`")
    params, run = module.params, module.params["run"]
    stations = params["stations"]
    if module.check_mode:
        module.exit_json(
            changed=True, path=None, lines=["Check mode: nothing was stopped and nothing written."]
        )
    lines = reports.summary(stations)
    content = {
        "run_id": run["id"],
        "system": params["system"],
        "check": False,
        "reason": run["reason"],
        "owner": f"{run['owner']['user']}@{run['owner']['node']}",
        "started_at": run["started_at"],
        "reported_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "all_stopped": all(station["stopped"] for station in stations),
        "stations": stations,
        "pending": [station["station"] for station in stations if reports.waits(station)],
        "warnings": [],
    }
    try:
        path, warning = reports.write_report(
            Path(params["directory"]), reports.name_of(run["started_at"], run["id"]), content
        )
    except OSError as error:
        module.fail_json(msg=f"no place took the report: {error}")
    if warning:
        module.warn(warning)
    module.exit_json(changed=True, path=str(path), lines=lines)


if __name__ == "__main__":
    main()
