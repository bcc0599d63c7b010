#!/usr/bin/python
"""Ansible module: put a copy of Redis back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_restore
short_description: Put a copy of Redis back, with an append-only file that has it
description:
  - Runs on the host of Redis. A Redis with an append-only file ignores a V(dump.rdb) that is only put in
    place. So a private server loads the copy and writes the append-only file, beside the data of the real
    one.
  - Only then the real server is stopped, its data gets a dated name, and the restored data takes its place. A
    copy that Redis' own checker refuses, that has no key, or whose keys have all expired touches nothing.
version_added: "0.1.0"
author: Stationkeeper
options:
  copy:
    description: The copy, a file that C(redis-cli --rdb) or BGSAVE has written.
    type: path
    required: true
  configuration:
    description: Configuration of the server.
    type: path
    default: /etc/redis/redis.conf
  data:
    description: Directory of its data.
    type: path
    default: /var/lib/redis
  unit:
    description: Its systemd unit.
    type: str
    default: redis-server.service
  account:
    description: The user and group of its files.
    type: str
    default: redis
  host:
    description: Address at which it answers.
    type: str
    default: 127.0.0.1
  port:
    description: Its port.
    type: int
    default: 6379
  user:
    description: A user that may PING, INFO, DBSIZE and DUMP.
    type: str
    required: true
  password:
    description: That user's password.
    type: str
    required: true
attributes:
  check_mode:
    description: Loads the copy and makes the append-only file as a real run does, and removes them.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Put the copy back
  cache_restore:
    copy: /var/lib/stationkeeper_file_backup/restored/20260101T000000Z/redis/var/lib/redis/dump.rdb
    user: backup
    password: "{{ secret_redis_backup_password }}"
"""

RETURN = r"""
loaded:
  description: Keys of the copy that have not expired.
  returned: success
  type: int
keys_read:
  description: All keys of the copy.
  returned: success
  type: int
compared:
  description: Keys whose values were compared.
  returned: success
  type: int
served:
  description: Keys that the server has afterwards.
  returned: outside of check mode
  type: int
kept:
  description: Where the data of before is; empty where there was none.
  returned: success
  type: str
"""

import pwd
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.backup.files.cache_restore import Server, by_systemd, restore
from ansible.module_utils.stationkeeper.backup.files.settings import BackupError, RedisAddress


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "copy": {"type": "path", "required": True},
            "configuration": {"type": "path", "default": "/etc/redis/redis.conf"},
            "data": {"type": "path", "default": "/var/lib/redis"},
            "unit": {"type": "str", "default": "redis-server.service"},
            "account": {"type": "str", "default": "redis"},
            "host": {"type": "str", "default": "127.0.0.1"},
            "port": {"type": "int", "default": 6379},
            "user": {"type": "str", "required": True},
            "password": {"type": "str", "required": True, "no_log": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        account = pwd.getpwnam(params["account"])
    except KeyError:
        module.fail_json(msg=f"there is no user {params['account']}: site.yml installs Redis")
    stop, start = by_systemd(params["unit"])
    server = Server(
        configuration=Path(params["configuration"]),
        data=Path(params["data"]),
        address=RedisAddress(params["host"], params["port"], params["user"], params["password"]),
        stop=stop,
        start=start,
        account=(account.pw_uid, account.pw_gid),
    )
    try:
        result = restore(server, Path(params["copy"]), dry_run=module.check_mode)
    except (BackupError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=True, **result)


if __name__ == "__main__":
    main()
