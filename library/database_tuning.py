#!/usr/bin/python
"""Ansible module: what settings fit a database host, and the settings of its roles."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: database_tuning
short_description: Say which settings fit a database host, and give roles theirs
description:
  - Runs on the database host. Measures memory and processors, within the limits of the control group, and
    says what the inventory should have. It does not write the server's configuration.
  - Converges settings of roles in the database, like C(work_mem) for those that sort much.
extends_documentation_fragment: [database_host]
options:
  memory_mb:
    description: What the inventory gives the server, C(postgresql_memory_mb).
    type: int
    required: true
  settings:
    description: What it sets besides, C(postgresql_settings).
    type: dict
    default: {}
  memory_percent:
    description: Part of the host's memory that the server may plan with.
    type: float
    default: 75
  roles:
    description: Settings by role, for sessions that begin from now on.
    type: dict
    default: {}
requirements: [python3-psycopg2]
attributes:
  check_mode:
    support: full
    description: Has the server judge the roles' settings, and changes none.
  diff_mode:
    support: full
    description: Shows the roles' settings.
author: Stationkeeper maintainers
"""

EXAMPLES = r"""
- name: Look which settings fit this host
  database_tuning:
    database: flux
    memory_mb: "{{ postgresql_memory_mb }}"
    roles: {flux_reader: {work_mem: 32MB}}
  become: true
  become_user: postgres
"""

RETURN = r"""
host:
  description: Measured memory_mb and cores.
  returned: success
  type: dict
advice:
  description: What to write into the inventory where it does not fit, by name. Empty when it does.
  returned: success
  type: dict
in_force:
  description: What the server has of these settings.
  returned: success
  type: dict
pending:
  description: Settings that wait for a restart.
  returned: success
  type: list
  elements: str
roles_changed:
  description: Settings of roles that were (in check mode, would be) changed.
  returned: success
  type: list
  elements: str
standby:
  description: Whether the server is a standby. Its roles come from the primary.
  returned: success
  type: bool
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database import tuning
from ansible.module_utils.stationkeeper.database.arguments import DATABASE_HOST, host_settings
from ansible.module_utils.stationkeeper.database.maintenance_server import is_standby, session


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **DATABASE_HOST,
            "memory_mb": {"type": "int", "required": True},
            "settings": {"type": "dict", "default": {}},
            "memory_percent": {"type": "float", "default": 75},
            "roles": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        host = tuning.measure()
        wanted = tuning.recommend(host, memory_percent=params["memory_percent"])
        with session(host_settings(params)) as connection:
            force, pending = tuning.in_force(connection, list(wanted))
            standby = is_standby(connection)
            changed = []
            if not standby:
                changed = tuning.converge_roles(
                    connection, params["database"], params["roles"], check=module.check_mode
                )
    except tuning.TuningError as error:
        module.fail_json(msg=str(error))
    except ImportError as error:
        module.fail_json(
            msg=missing_required_lib("psycopg2 (Debian: python3-psycopg2)"), exception=repr(error)
        )
    except Exception as error:
        # psycopg2's own classes: the driver may be missing, so they cannot be named here.
        module.fail_json(msg=f"database {params['database']}: {str(error).strip()}")
    module.exit_json(
        changed=bool(changed),
        host=asdict(host),
        advice=tuning.advice(wanted, params["memory_mb"], params["settings"], force),
        in_force=force,
        pending=pending,
        roles_changed=changed,
        standby=standby,
        diff={"before": "", "after": "".join(f"{line}\n" for line in changed)},
    )


if __name__ == "__main__":
    main()
