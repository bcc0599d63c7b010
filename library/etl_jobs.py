#!/usr/bin/python
"""Ansible module: how scheduled jobs do."""

from __future__ import annotations

DOCUMENTATION = r"""
module: etl_jobs
short_description: Judge scheduled jobs by their runs and their schedule
description:
  - Runs on the control node. Reads the job table, and who holds the jobs' locks.
  - A job that is late, stuck or failed is a result, not a failure of the module. It fails when it cannot
    answer - the database is down, or has no job table.
version_added: "0.3.0"
author: Stationkeeper
options:
  database:
    description: Connection of a user that may read the job table.
  schema:
    description: Schema of the job table.
    type: str
    default: flux
  jobs:
    description: The jobs that are scheduled, as C(telemetry_jobs_schedule) has them.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the job.
        type: str
        required: true
      interval_s:
        description: Two runs are at most this many seconds apart.
        type: int
        required: true
      limit_s:
        description: A run that takes longer is stuck, in seconds.
        type: int
        required: true
      calendar:
        description: When systemd starts it. Not judged.
        type: str
      options:
        description: The job's own options. Not judged.
        type: dict
  window_hours:
    description: How far back rates and durations look.
    type: float
    default: 24
  target_percent:
    description: Part of the runs of a job that has to complete.
    type: float
    default: 95
  after_run:
    description: With O(wait_s), wait until each job has ended a run with a higher number.
    type: int
    default: 0
  wait_s:
    description: How long to wait for that, in seconds. The answer comes then in any case.
    type: float
    default: 0
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
- name: Ask how the jobs do
  etl_jobs:
    database: "{{ stationkeeper_database | combine(reader) }}"
    jobs: "{{ hostvars['fluxhub'].telemetry_jobs_schedule }}"
  vars:
    reader: {user: flux_reader, password: "{{ secret_flux_reader_password }}"}
  delegate_to: localhost
"""

RETURN = r"""
jobs:
  description: >-
    For each job its name, state (ok, degraded or critical), message, and over the window ended, completed,
    aborted, success_rate, records, p50_s and max_s; success_age_s since the last success; on_time, whether
    that is young enough; and newest, the newest run with id, state (running, completed, failed, stopped,
    stuck or aborted), started_at, completed_at, records, host, unit, process_id, error, running_s and
    heartbeat_age_s.
  returned: success
  type: list
  elements: dict
state:
  description: The worst state of all.
  returned: success
  type: str
  sample: ok
table:
  description: The same as lines for a terminal.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE

try:
    from stationkeeper.jobs import status
    from stationkeeper.jobs.interface import JobError
    from stationkeeper.telemetry import source

    MISSING = None
except ImportError as error:
    MISSING = str(error)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "dict", "required": True, "options": DATABASE},
            "schema": {"type": "str", "default": "flux"},
            "jobs": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "interval_s": {"type": "int", "required": True},
                    "limit_s": {"type": "int", "required": True},
                    "calendar": {"type": "str"},
                    "options": {"type": "dict"},
                },
            },
            "window_hours": {"type": "float", "default": 24},
            "target_percent": {"type": "float", "default": 95},
            "after_run": {"type": "int", "default": 0},
            "wait_s": {"type": "float", "default": 0},
        },
        supports_check_mode=True,
    )
    if MISSING is not None:
        module.fail_json(
            msg=f"{missing_required_lib('stationkeeper')} On the control node: make setup. ({MISSING})"
        )
    params = module.params
    if not params["window_hours"] > 0 or not 0 < params["target_percent"] <= 100:
        module.fail_json(msg="window_hours must be above 0, target_percent above 0 and at most 100")
    schedules = [status.Schedule(job["name"], job["interval_s"], job["limit_s"]) for job in params["jobs"]]
    try:
        with source.reading(params["database"]) as connection:
            if params["wait_s"]:
                status.wait(
                    connection, schedules, params["after_run"], params["wait_s"], schema=params["schema"]
                )
            found = status.ask(
                connection,
                schedules,
                window_s=params["window_hours"] * 3600,
                target=params["target_percent"] / 100,
                schema=params["schema"],
            )
    except (source.TelemetryError, JobError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        jobs=[one.as_dict() for one in found],
        state=max((one.state for one in found), key=status.STATES.index, default="ok"),
        table=status.describe(found),
    )


if __name__ == "__main__":
    main()
