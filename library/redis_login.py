#!/usr/bin/python
"""Ansible module: whether a Redis accepts a login."""

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_login
short_description: Try a login at a Redis
description:
  - Runs where the login is to be tried from. That it is refused is a result, that nobody answers an error.
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
    description: Name of the user.
    type: str
    required: true
  password:
    description: The password.
    type: str
    required: true
attributes:
  check_mode:
    description: Changes nothing, so it does the same.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
"""

EXAMPLES = r"""
- name: Try the password before
  redis_login:
    host: 127.0.0.1
    user: flux
    password: "{{ before }}"
  register: login
  failed_when: login.accepted
"""

RETURN = r"""
accepted:
  description: Whether the server let the user in.
  returned: success
  type: bool
answer:
  description: The server's words, when it did not.
  returned: success
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.backup.files.resp import Redis
from ansible.module_utils.stationkeeper.backup.files.settings import BackupError, RedisAddress
from ansible.module_utils.stationkeeper.hot_tier.arguments import REDIS

_REFUSALS = ("WRONGPASS", "NOAUTH")


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=REDIS, supports_check_mode=True)
    answer = ""
    try:
        with Redis(RedisAddress(**module.params)):
            pass
    except BackupError as error:
        answer = str(error)
        if not any(word in answer for word in _REFUSALS):
            module.fail_json(msg=answer)
    module.exit_json(changed=False, accepted=not answer, answer=answer)


if __name__ == "__main__":
    main()
