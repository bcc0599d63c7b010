#!/usr/bin/python
"""Ansible module: make the hot tier agree with the database."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_refresh
short_description: Bring the last 24 hours of telemetry into Redis
description:
  - Runs on the control node. Afterwards Redis has the newest row of each device in service, its rows of the
    last 24 hours, and figures of the last hour. Keys of devices that are not in service any more are removed;
    keys that are not the hot tier's are never touched.
  - Takes rows after the last cached one, and every hour whose number of points is not the database's. Readers
    see a series as it was or as it is, never a part of it.
version_added: "0.1.0"
author: Stationkeeper
options:
  database:
    description: Connection of a user that may read telemetry.
  redis:
    description: Connection of a user that may write the system's keys.
  system:
    description: First part of all keys.
    type: str
    required: true
  schema:
    description: Schema of the telemetry tables.
    type: str
    default: flux
  devices:
    description:
      - Only these devices, names or patterns such as V(WLCE-*). All when empty.
      - The figures of the last hour and the time of the refresh are written with all devices only.
    type: list
    elements: str
    default: []
  force:
    description: Make everything anew, for values that changed in rows that are cached already.
    type: bool
    default: false
extends_documentation_fragment: [database, redis]
attributes:
  check_mode:
    description: Writes nothing, and says what it would write; it counts points and does not compare values.
    support: full
  diff_mode:
    description: Shows a line for each device and key.
    support: full
requirements:
  - the Python package C(stationkeeper) on the control node
"""

EXAMPLES = r"""
- name: Bring telemetry into the hot tier
  cache_refresh:
    database: "{{ stationkeeper_database | combine(reader) }}"
    redis: {host: 10.78.10.12, user: flux, password: "{{ secret_redis_flux_password }}"}
    system: flux
  vars:
    reader: {user: flux_reader, password: "{{ secret_flux_reader_password }}"}
  delegate_to: localhost
"""

RETURN = r"""
when:
  description: End of the 24 hours, by the database's clock.
  returned: success
  type: str
points:
  description: Points of all series of the chosen devices, as the database has them.
  returned: success
  type: int
added:
  description: Points that a reader did not see before.
  returned: success
  type: int
removed:
  description: Points that a reader saw before and does not see any more.
  returned: success
  type: int
removed_keys:
  description: Keys of devices that are not in service, and what ended runs left.
  returned: success
  type: list
  elements: str
devices:
  description: >-
    For each device its points, how many were added and removed, whether its newest row is another (latest)
    and whether its series was made anew (built).
  returned: success
  type: list
  elements: dict
run:
  description: Name of this refresh, as in the stamp in Redis.
  returned: success
  type: str
table:
  description: What changes, as lines for a terminal.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE
from ansible.module_utils.stationkeeper.hot_tier.arguments import REDIS

try:
    from stationkeeper.hot_tier.connection import settings_of
    from stationkeeper.hot_tier.refresh import Request, refresh
    from stationkeeper.telemetry.source import TelemetryError, reading

    MISSING = None
except ImportError as error:
    MISSING = str(error)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "dict", "required": True, "options": DATABASE},
            "redis": {"type": "dict", "required": True, "options": REDIS},
            "system": {"type": "str", "required": True},
            "schema": {"type": "str", "default": "flux"},
            "devices": {"type": "list", "elements": "str", "default": []},
            "force": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    if MISSING is not None:
        module.fail_json(
            msg=f"{missing_required_lib('stationkeeper')} On the control node: make setup. ({MISSING})"
        )
    params = module.params
    request = Request(params["system"], params["schema"], params["devices"], params["force"])
    try:
        with reading(params["database"]) as connection:
            outcome = refresh(connection, settings_of(params["redis"]), request, dry_run=module.check_mode)
    except TelemetryError as error:
        module.fail_json(msg=str(error))
    table = outcome.lines()
    diff = {"diff": {"prepared": "".join(f"{line}\n" for line in table)}} if module._diff and table else {}
    module.exit_json(changed=outcome.changed, table=table, **diff, **outcome.as_dict())


if __name__ == "__main__":
    main()
