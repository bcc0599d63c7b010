#!/usr/bin/python
"""Ansible module: the users of a Redis, in its file and in the running server."""

from __future__ import annotations

DOCUMENTATION = r"""
module: redis_users
short_description: Declare the users of a Redis
description:
  - Runs on Redis' host. Writes the ACL file and tells the running server what differs, so that no client
    loses its connection. A user whose passwords differ in the server is set right, too.
  - The user C(default) is switched off, users that are not declared are removed.
  - Both a user's C(password) and its C(password_other) are accepted, which a rotation needs.
version_added: "0.6.0"
author: Stationkeeper
options:
  path:
    description: The ACL file. Its directory has to exist.
    type: path
    required: true
  users:
    description: The users.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the user.
        type: str
        required: true
      password:
        description: Its password. The host keeps a SHA-256 of it.
        type: str
        required: true
      password_other:
        description: A password that is accepted besides.
        type: str
        default: ""
      rules:
        description: What it may do, in the words of Redis' ACLs.
        type: str
        required: true
  operator:
    description: The user of O(users) that may change users; this module logs in as it.
    type: str
    required: true
  owner:
    description: The account that Redis runs as; the file belongs to it and its group.
    type: str
    default: redis
  host:
    description: Address of the server.
    type: str
    default: 127.0.0.1
  port:
    description: Port of the server.
    type: int
    default: 6379
attributes:
  check_mode:
    description: Asks the server, and says which users would change.
    support: full
  diff_mode:
    description: Names the users. Their lines hold hashes of passwords.
    support: full
"""

EXAMPLES = r"""
- name: Declare the users
  redis_users:
    path: /etc/redis/users.acl
    users: "{{ redis_users }}"
    operator: admin
"""

RETURN = r"""
users:
  description: Users that were set or removed, or would be.
  returned: success
  type: list
  elements: str
told:
  description: >-
    Whether the running server has the users of the file. When it does not run, or refused the operator, it
    has them after its next start.
  returned: success
  type: bool
"""

import os
import pwd
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.backup.files.resp import Redis
from ansible.module_utils.stationkeeper.backup.files.settings import BackupError, RedisAddress
from ansible.module_utils.stationkeeper.files import write_atomically
from ansible.module_utils.stationkeeper.redis_users import User, commands, differing, digests_of, text

_MODE = 0o640


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "users": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "password": {"type": "str", "required": True, "no_log": True},
                    "password_other": {"type": "str", "default": "", "no_log": True},
                    "rules": {"type": "str", "required": True},
                },
            },
            "operator": {"type": "str", "required": True},
            "owner": {"type": "str", "default": "redis"},
            "host": {"type": "str", "default": "127.0.0.1"},
            "port": {"type": "int", "default": 6379},
        },
        supports_check_mode=True,
    )
    users = [
        User(one["name"], tuple(filter(None, (one["password"], one["password_other"]))), one["rules"])
        for one in module.params["users"]
    ]
    path = Path(module.params["path"])
    try:
        account = pwd.getpwnam(module.params["owner"])
        owner = account.pw_uid, account.pw_gid
        file = path.read_text(encoding="utf-8") if path.exists() else ""
        server = _connected(module, users)
        live = (
            {user.name: digests_of(server("ACL", "GETUSER", user.name)) for user in users} if server else {}
        )
        changed = differing(file, users, live)
        rewritten = file != text(users) or not _is_owned(path, *owner)
        if not module.check_mode:
            # The server first: killed in between, the next run still sees the difference.
            for command in commands(changed, users) if server else []:
                server(*command)
            if rewritten:
                write_atomically(path, text(users), mode=_MODE)
                os.chown(path, *owner)
    except (BackupError, OSError, KeyError) as error:
        module.fail_json(msg=f"the users of Redis: {error}")
    module.exit_json(
        changed=bool(changed) or rewritten,
        users=changed,
        told=server is not None,
        diff={"prepared": "".join(f"user {name}\n" for name in changed)},
    )


def _connected(module: AnsibleModule, users: list[User]) -> Redis | None:
    """Log in with whichever of the operator's passwords is accepted; None when none is, or nobody answers."""
    operator = next((user for user in users if user.name == module.params["operator"]), None)
    if operator is None:
        module.fail_json(msg=f"users has no {module.params['operator']}, which `operator` names")
    for password in operator.passwords:
        address = RedisAddress(module.params["host"], module.params["port"], operator.name, password)
        try:
            return Redis(address)
        except BackupError:
            continue
    return None


def _is_owned(path: Path, uid: int, gid: int) -> bool:
    """Whether Redis can read the file; a run that was killed may have left it to root."""
    found = path.stat()
    return (found.st_uid, found.st_gid, found.st_mode & 0o777) == (uid, gid, _MODE)


if __name__ == "__main__":
    main()
