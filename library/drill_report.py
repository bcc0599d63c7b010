#!/usr/bin/python
"""Ansible module: the report of a drill."""

from __future__ import annotations

DOCUMENTATION = r"""
module: drill_report
short_description: Judge a drill, write its page, and give its figures
description:
  - Runs on the control node. Compares what was measured with the objectives. Writes C(<drill>/<run>.md) and
    C(<drill>/<run>.json) below O(directory).
  - A drill that fell short is a result, not a failure of the module. Only a good one tells the time
    of a success.
version_added: "0.4.0"
author: Stationkeeper
options:
  directory:
    description: Where reports lie, on the control node.
    type: path
    required: true
  drill:
    description: Name of the drill.
    type: str
    required: true
  title:
    description: What it is called in the report.
    type: str
    required: true
  target:
    description: What it was held on.
    type: str
    required: true
  run_id:
    description: The drill's run.
    type: str
    required: true
  started_at:
    description: When the fault was injected, in seconds since the epoch.
    type: float
    required: true
  fault:
    description: What was broken, in words.
    type: str
    required: true
  rto_s:
    description: Measured recovery time in seconds.
    type: float
    required: true
  rpo_s:
    description: Measured loss of data, as a time in seconds.
    type: float
    required: true
  objective:
    description: What the operations guide promises.
    type: dict
    required: true
    suboptions:
      rto_s:
        description: Seconds.
        type: float
        required: true
      rpo_s:
        description: Seconds.
        type: float
        required: true
  steps:
    description: What was done, each with C(what) and C(seconds).
    type: list
    elements: dict
    default: []
  problems:
    description: What went wrong, one sentence each.
    type: list
    elements: str
    default: []
  evidence:
    description: Anything that proves it.
    type: dict
    default: {}
attributes:
  check_mode:
    description: Judges, and writes nothing.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
requirements:
  - the Python package C(stationkeeper) on the control node
"""

EXAMPLES = r"""
- name: Report
  drill_report:
    directory: "{{ runbook_run.state_directory }}/drills"
    drill: drill_failover
    title: The primary fails
    target: fluxdb1
    run_id: "{{ runbook_run.id }}"
    started_at: 1774785600.0
    fault: PostgreSQL of fluxdb1 was killed
    rto_s: 7.1
    rpo_s: 0
    objective: {rto_s: 900, rpo_s: 86400}
"""

RETURN = r"""
good:
  description: Whether nothing went wrong and every objective was met.
  returned: success
  type: bool
shortfalls:
  description: Every reason why not.
  returned: success
  type: list
  elements: str
page:
  description: The page on the control node.
  returned: success
  type: str
metrics:
  description: Figures in Prometheus' text format, by the name of the file that takes them.
  returned: success
  type: dict
"""

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from stationkeeper.drills import report
    from stationkeeper.files import write_atomically
    from stationkeeper.jobs.metrics import text

    MISSING = None
except ImportError as error:
    MISSING = str(error)


def main() -> None:
    """Run the module."""
    seconds = {"type": "float", "required": True}
    word = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "drill": word,
            "title": word,
            "target": word,
            "run_id": word,
            "started_at": seconds,
            "fault": word,
            "rto_s": seconds,
            "rpo_s": seconds,
            "objective": {
                "type": "dict",
                "required": True,
                "options": {"rto_s": seconds, "rpo_s": seconds},
            },
            "steps": {"type": "list", "elements": "dict", "default": []},
            "problems": {"type": "list", "elements": "str", "default": []},
            "evidence": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    if MISSING is not None:
        module.fail_json(
            msg=f"{missing_required_lib('stationkeeper')} On the control node: make setup. ({MISSING})"
        )
    params = module.params
    drill = report.Drill(
        name=params["drill"],
        title=params["title"],
        target=params["target"],
        run_id=params["run_id"],
        started_at=params["started_at"],
        started=datetime.fromtimestamp(params["started_at"], UTC).isoformat(timespec="seconds"),
        fault=params["fault"],
        rto_s=params["rto_s"],
        rpo_s=params["rpo_s"],
        objective_rto_s=params["objective"]["rto_s"],
        objective_rpo_s=params["objective"]["rpo_s"],
        steps=[(str(step["what"]), float(step["seconds"])) for step in params["steps"]],
        problems=params["problems"],
        evidence=params["evidence"],
    )
    good = not drill.shortfalls
    place = Path(params["directory"]) / drill.name
    if not module.check_mode:
        try:
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(place / f"{drill.run_id}.md", report.page(drill).encode(), mode=0o600)
            record = {**asdict(drill), "good": good, "shortfalls": drill.shortfalls}
            content = json.dumps(record, indent=2, default=str) + "\n"
            write_atomically(place / f"{drill.run_id}.json", content.encode(), mode=0o600)
        except OSError as error:
            module.fail_json(msg=f"The report cannot be written: {error}")
    metrics = {f"stationkeeper_{drill.name}.prom": text(report.samples(drill)).decode()}
    if good:
        metrics[f"stationkeeper_{drill.name}_success.prom"] = text(report.success(drill)).decode()
    module.exit_json(
        changed=True,
        good=good,
        shortfalls=drill.shortfalls,
        page=str(place / f"{drill.run_id}.md"),
        metrics=metrics,
    )


if __name__ == "__main__":
    main()
