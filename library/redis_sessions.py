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
"""

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
        },
        supports_check_mode=True,
    )
    given = module.params
    address = RedisAddress(given["host"], given["port"], given["user"], given["password"])
    try:
        with Redis(address) as server:
            own = str(server("CLIENT", "ID"))
            lines = server("CLIENT", "LIST").decode().splitlines()
            sessions = [dict(word.split("=", 1) for word in line.split()) for line in lines]
            found = [one for one in sessions if one["user"] == given["of"] and one["id"] != own]
            old = [one["id"] for one in found if int(one["age"]) >= given["older_than_s"]]
            if not module.check_mode:
                for session in old:
                    server("CLIENT", "KILL", "ID", session)
    except BackupError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(old), ended=len(old), left=len(found) - len(old))


if __name__ == "__main__":
    main()
