#!/usr/bin/python
"""Ansible module: the figures of the hot tier, and whether it says what the database says."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_look
short_description: Judge the hot tier
description:
  - Runs on the control node. Asks Redis for memory, hit rate, keys and the age of the last refresh, and
    compares every device with the database - the number of rows and points of the last 24 hours, the values
    of the newest row and of some points by chance.
  - What is wrong is a result, not a failure of the module. It fails when it cannot answer.
version_added: "0.1.0"
author: Stationkeeper
options:
  database:
    description: Connection of a user that may read telemetry.
  redis:
    description: Connection of a user that may read the system's keys, and ask INFO.
  system:
    description: First part of all keys.
    type: str
    required: true
  schema:
    description: Schema of the telemetry tables.
    type: str
    default: flux
  sample_s:
    description: Seconds over which the hit rate is measured; 0 for what the refreshes have added up only.
    type: float
    default: 2
  settle_s:
    description: Rows younger than this at the last refresh were on their way; they are not compared.
    type: float
    default: 60
  devices:
    description: Only these devices are compared with the database, names or patterns. All when empty.
    type: list
    elements: str
    default: []
  biggest:
    description: As many of the biggest keys are listed.
    type: int
    default: 5
  max_age_s:
    description: Degraded when the last refresh is older.
    type: float
    default: 300
  critical_age_s:
    description: Critical when the last refresh is older.
    type: float
    default: 3600
  max_memory_percent:
    description: Degraded when more of maxmemory is used.
    type: float
    default: 80
  critical_memory_percent:
    description: Critical when more of maxmemory is used.
    type: float
    default: 95
  min_hit_percent:
    description: Degraded when fewer look-ups find their key.
    type: float
    default: 90
  min_lookups:
    description: The hit rate is judged from as many look-ups on.
    type: int
    default: 1000
  big_key_mib:
    description: Degraded when a key takes more.
    type: float
    default: 64
  max_missing_percent:
    description: Degraded when a device lacks more of its rows.
    type: float
    default: 1
extends_documentation_fragment: [database, redis]
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
- name: Judge the hot tier
  cache_look:
    database: "{{ stationkeeper_database | combine(reader) }}"
    redis: {host: 10.78.10.12, user: flux, password: "{{ secret_redis_flux_password }}"}
    system: flux
  vars:
    reader: {user: flux_reader, password: "{{ secret_flux_reader_password }}"}
  delegate_to: localhost
"""

RETURN = r"""
checks:
  description: >-
    One for each of refreshed, equality, memory, hit rate and keys, with state (ok, degraded or critical) and
    message.
  returned: success
  type: list
  elements: dict
  sample: [{name: refreshed, state: ok, message: "12 s ago, limit 300 s"}]
readers:
  description: Look-ups without those of the refresh, and the share of hits; null before the first refresh.
  returned: success
  type: dict
  sample: {lookups: 12000, percent: 97.5}
server:
  description: Version, memory in bytes, policy, evicted and expired keys, clients and hit rates.
  returned: success
  type: dict
age_s:
  description: Seconds since the last whole refresh; null when there was none.
  returned: success
  type: float
patterns:
  description: For each kind of key how many there are, their bytes, and how many have no TTL.
  returned: success
  type: dict
other_keys:
  description: Number of keys that are not the hot tier's.
  returned: success
  type: int
biggest:
  description: The biggest keys with their bytes.
  returned: success
  type: list
  elements: dict
bytes_per_point:
  description: What a point of a series takes; null without one.
  returned: success
  type: float
devices:
  description: For each device the rows of the database, the points of the cache, and what is wrong besides.
  returned: success
  type: list
  elements: dict
table:
  description: The same as lines for a terminal.
  returned: success
  type: list
  elements: str
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible.module_utils.stationkeeper.database.arguments import DATABASE
from ansible.module_utils.stationkeeper.hot_tier.arguments import REDIS

try:
    from stationkeeper.hot_tier.connection import settings_of
    from stationkeeper.hot_tier.judge import Limits, judge, lines
    from stationkeeper.hot_tier.look import Question, look
    from stationkeeper.telemetry.source import TelemetryError, reading

    MISSING = None
except ImportError as error:
    MISSING = str(error)

LIMITS = {
    "max_age_s": {"type": "float", "default": 300},
    "critical_age_s": {"type": "float", "default": 3600},
    "max_memory_percent": {"type": "float", "default": 80},
    "critical_memory_percent": {"type": "float", "default": 95},
    "min_hit_percent": {"type": "float", "default": 90},
    "min_lookups": {"type": "int", "default": 1000},
    "big_key_mib": {"type": "float", "default": 64},
    "max_missing_percent": {"type": "float", "default": 1},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "database": {"type": "dict", "required": True, "options": DATABASE},
            "redis": {"type": "dict", "required": True, "options": REDIS},
            "system": {"type": "str", "required": True},
            "schema": {"type": "str", "default": "flux"},
            "sample_s": {"type": "float", "default": 2},
            "settle_s": {"type": "float", "default": 60},
            "devices": {"type": "list", "elements": "str", "default": []},
            "biggest": {"type": "int", "default": 5},
            **LIMITS,
        },
        supports_check_mode=True,
    )
    if MISSING is not None:
        module.fail_json(
            msg=f"{missing_required_lib('stationkeeper')} On the control node: make setup. ({MISSING})"
        )
    params = module.params
    asked = {
        name: params[name] for name in ("system", "schema", "sample_s", "settle_s", "devices", "biggest")
    }
    try:
        limits = Limits(**{name: params[name] for name in LIMITS})
        with reading(params["database"]) as connection:
            seen = look(connection, settings_of(params["redis"]), Question(**asked))
    except TelemetryError as error:
        module.fail_json(msg=str(error))
    checks = judge(seen, limits)
    module.exit_json(
        changed=False,
        checks=[asdict(one) for one in checks],
        table=lines(seen, checks),
        **seen.as_dict(),
    )


if __name__ == "__main__":
    main()
