#!/usr/bin/python
"""Ansible module: the systemd services and timers of scheduled jobs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: job_timers
short_description: Keep one systemd service and timer for each scheduled job, and none for others
description:
  - Writes C(stationkeeper-job-NAME.service) and C(.timer), enables and starts the timers, and removes those
    of jobs that are not declared any more. A run that is going on is left to end.
  - Needs nothing on the host but python3 and systemd.
version_added: "0.3.0"
author: Stationkeeper
options:
  jobs:
    description: The jobs, as C(telemetry_jobs_schedule) has them. An empty list removes them all.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the job, in small letters.
        type: str
        required: true
      calendar:
        description: When it runs, in systemd's OnCalendar notation, in UTC.
        type: str
        required: true
      limit_s:
        description: A run that takes longer is ended, in seconds.
        type: int
        required: true
      interval_s:
        description: Two runs are at most this many seconds apart. Checks judge by it, systemd does not.
        type: int
      options:
        description: The job's own options. They stand in O(config); systemd does not need them.
        type: dict
  program:
    description: The program C(stationkeeper).
    type: path
    default: /opt/stationkeeper/venv/bin/stationkeeper
  config:
    description: The file that tells the jobs where they work.
    type: path
    default: /etc/stationkeeper/jobs.json
  user:
    description: User and group that the jobs run as; C(/var/lib/USER) is their own directory.
    type: str
    required: true
  writable:
    description: Further directories that the jobs may write.
    type: list
    elements: path
    default: []
attributes:
  check_mode:
    description: Says what it would write and start.
    support: full
  diff_mode:
    description: Shows the units before and after.
    support: full
"""

EXAMPLES = r"""
- name: Schedule the jobs
  job_timers:
    user: stationkeeper_jobs
    writable: [/var/lib/prometheus/node-exporter]
    jobs:
      - {name: freshness, calendar: "*-*-* *:01/5:00 UTC", limit_s: 60}
"""

RETURN = r"""
files:
  description: Units that were (in check mode, would be) written or removed.
  returned: success
  type: list
  elements: str
  sample: [stationkeeper-job-freshness.service, stationkeeper-job-freshness.timer]
started:
  description: Timers that were (in check mode, would be) enabled and started.
  returned: success
  type: list
  elements: str
"""

import re

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.jobs import units


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "jobs": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "calendar": {"type": "str", "required": True},
                    "limit_s": {"type": "int", "required": True},
                    "interval_s": {"type": "int"},
                    "options": {"type": "dict"},
                },
            },
            "program": {"type": "path", "default": "/opt/stationkeeper/venv/bin/stationkeeper"},
            "config": {"type": "path", "default": "/etc/stationkeeper/jobs.json"},
            "user": {"type": "str", "required": True},
            "writable": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    jobs = [units.Job(job["name"], job["calendar"], job["limit_s"]) for job in params["jobs"]]
    layout = units.Layout(params["program"], params["config"], params["user"], params["writable"])
    for job in jobs:
        if not re.fullmatch(r"[a-z][a-z_]*", job.name) or "\n" in job.calendar or job.limit_s < 1:
            module.fail_json(
                msg=f"job {job.name!r} has no usable name, calendar or limit; nothing was changed"
            )
    try:
        done = units.converge(jobs, layout, dry_run=module.check_mode)
    except (units.UnitsError, OSError) as error:
        module.fail_json(msg=f"The jobs are not scheduled as declared: {error}")
    module.exit_json(
        changed=done.changed,
        files=list(done.files),
        started=list(done.started),
        diff=[
            {"before_header": name, "after_header": name, "before": before, "after": after}
            for name, (before, after) in done.files.items()
        ],
    )


if __name__ == "__main__":
    main()
