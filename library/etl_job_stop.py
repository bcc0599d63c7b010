#!/usr/bin/python
"""Ansible module: end exactly the stuck run of a scheduled job."""

from __future__ import annotations

DOCUMENTATION = r"""
module: etl_job_stop
short_description: End the stuck run of a scheduled job, and nothing else
description:
  - Runs on the hub with the Python of the installed package. Looks for a run of the job that has not ended.
    One that is stuck (its heartbeat stands still, or its time is over) or died is marked as stopped, its unit
    is stopped, its sessions in the database are ended.
  - A session is ended only when its process, the moment it began and its name are those of the run; the unit
    only while its main process is the run's.
  - A run that is healthy is refused, unless O(even_if_running).
version_added: "0.3.0"
author: Stationkeeper
options:
  name:
    description: Name of the job.
    type: str
    required: true
  reason:
    description: Why the run is ended; it stands in its row.
    type: str
    required: true
  config:
    description: The file that tells the jobs where they work.
    type: path
    default: /etc/stationkeeper/jobs.json
  even_if_running:
    description: End a healthy run, too.
    type: bool
    default: false
attributes:
  check_mode:
    description: Says what it would end.
    support: full
  diff_mode:
    description: Shows the run's state before and after.
    support: full
requirements:
  - the Python package C(stationkeeper), installed by the role telemetry_jobs
"""

EXAMPLES = r"""
- name: End the stuck run
  etl_job_stop:
    name: gap_watch
    reason: stuck since the database failed over
  vars:
    ansible_python_interpreter: /opt/stationkeeper/venv/bin/python
"""

RETURN = r"""
ended:
  description: The run that was (in check mode, would be) ended, with its sessions and its unit.
  returned: when there was one
  type: dict
newest:
  description: The newest run of the job as it was before.
  returned: when it has ever run
  type: dict
newest_id:
  description: Its number, 0 when the job has never run.
  returned: success
  type: int
"""

from contextlib import closing
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

try:
    from stationkeeper.jobs import config, stopping
    from stationkeeper.jobs.interface import JobError
    from stationkeeper.telemetry.source import TelemetryError

    MISSING = None
except ImportError as error:
    MISSING = str(error)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "reason": {"type": "str", "required": True},
            "config": {"type": "path", "default": "/etc/stationkeeper/jobs.json"},
            "even_if_running": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    if MISSING is not None:
        module.fail_json(
            msg=f"{missing_required_lib('stationkeeper')} On the hub: playbooks/site.yml. ({MISSING})"
        )
    params = module.params
    try:
        given = config.read(Path(params["config"]))
        schedule = given.schedule(params["name"])
        with closing(stopping.session(given.settings(params["name"]))) as connection:
            newest, plan = stopping.look(
                connection, schedule, even_if_running=params["even_if_running"], schema=given.schema
            )
            if plan and not module.check_mode:
                stopping.carry_out(connection, plan, params["reason"], schema=given.schema)
    except (JobError, TelemetryError) as error:
        module.fail_json(msg=str(error))
    result = {"newest": newest.as_dict()} if newest else {}
    if plan:
        name = f"run {plan.run.id} of {params['name']}"
        result |= {
            "ended": plan.as_dict(),
            "diff": {"before": f"{name}: {plan.run.state}\n", "after": f"{name}: stopped\n"},
        }
    module.exit_json(changed=plan is not None, newest_id=newest.id if newest else 0, **result)


if __name__ == "__main__":
    main()
