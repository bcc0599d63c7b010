#!/usr/bin/python
"""Ansible module: end the sessions of a Redis user."""

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_sessions
short_description: End sessions of a Redis user
description:
  - A session outlives the password that it was opened with. Ends those of a user that are old enough. Clients
    connect again by themselves, with the password that they have now.
version_added: "0.6.0"
author: Stationkeeper
options:
  host:
    description: Address of the server.
    type: str
    required: true
  port:
    description: Port of the server.
    type: int
    default: 6379
  user:
    description: The user that may end sessions.
    type: str
    required: true
  password:
    description: Its password.
    type: str
    required: true
  of:
    description: The user whose sessions are ended.
    type: str
    required: true
  older_than_s:
    description: Only sessions that were opened so many seconds ago, or earlier.
    type: int
    default: 0
  patience_s:
    description: How long these sessions may take to end by themselves, so that no work is interrupted.
    type: int
    default: 0
attributes:
  check_mode:
    description: Counts the sessions that would end.
    support: full
  diff_mode:
    description: A number is the result.
    support: none
"""

EXAMPLES = r"""
- name: End sessions that were opened with the password before
  redis_sessions:
    host: 127.0.0.1
    user: admin
    password: "{{ secret_redis_admin_password }}"
    of: flux
    older_than_s: 60
    patience_s: 20
"""

RETURN = r"""
ended:
  description: Sessions that were ended, or would be.
  returned: success
  type: int
left:
  description: Younger sessions of the user, which go on.
  returned: success
  type: int
by_themselves:
  description: Sessions that ended while the module was patient. None in check mode, which does not wait.
  returned: success
  type: int
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.backup.files.resp import Redis
from ansible.module_utils.stationkeeper.backup.files.settings import BackupError, RedisAddress
from ansible.module_utils.stationkeeper.hot_tier.arguments import REDIS


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **REDIS,
            "of": {"type": "str", "required": True},
            "older_than_s": {"type": "int", "default": 0},
            "patience_s": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    given = module.params
    address = RedisAddress(given["host"], given["port"], given["user"], given["password"])
    try:
        with Redis(address) as server:
            found = _sessions(server, given["of"])
            old = {one for one, age_s in found.items() if age_s >= given["older_than_s"]}
            ended = set(old)
            if not module.check_mode:
                ended = _patiently(server, given["of"], old, given["patience_s"])
                for session in ended:
                    server("CLIENT", "KILL", "ID", session)
    except BackupError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(ended),
        ended=len(ended),
        left=len(found) - len(old),
        by_themselves=len(old - ended),
    )


def _sessions(server: Redis, user: str) -> dict[str, int]:
    """Return how old each session of a user is, in seconds, but for the one that asks."""
    own = str(server("CLIENT", "ID"))
    lines = server("CLIENT", "LIST").decode().splitlines()
    sessions = [dict(word.split("=", 1) for word in line.split()) for line in lines]
    return {one["id"]: int(one["age"]) for one in sessions if one["user"] == user and one["id"] != own}


def _patiently(server: Redis, user: str, sessions: set[str], patience_s: int) -> set[str]:
    """Return which sessions are still there when all had the time to end."""
    until = time.monotonic() + patience_s
    while sessions and time.monotonic() < until:
        time.sleep(0.2)
        sessions = sessions & _sessions(server, user).keys()
    return sessions


if __name__ == "__main__":
    main()
