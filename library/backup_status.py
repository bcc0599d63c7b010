#!/usr/bin/python
"""Ansible module: every backup of the database, and whether they are good."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_status
short_description: Judge the backups of the database
description:
  - Runs on the repository host, with nothing but its python3 and pgBackRest. Reads only.
  - Backups that are too old, not verified or damaged are a result, not a failure of the module. It fails
    when it cannot answer.
  - WAL that is missing is found by computing what the backups and the timelines need, since
    C(pgbackrest verify) does not notice it.
version_added: "0.4.0"
author: Stationkeeper
extends_documentation_fragment: [backup_settings]
attributes:
  check_mode:
    description: Reads only, so it does the same.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
"""

EXAMPLES = r"""
- name: Ask for the backups
  backup_status:
  check_mode: false
"""

RETURN = r"""
problems:
  description: What is wrong, a sentence each. Empty when all is good.
  returned: success
  type: list
  elements: str
backups:
  description: >-
    Each backup with label, kind, repository, began, age_s, age, size_mib, stored_mib, wal_first, wal_last,
    verified (a sentence) and good.
  returned: success
  type: list
  elements: dict
wal:
  description: For each repository when its newest segment of WAL came, and how long ago.
  returned: success
  type: list
  elements: dict
table:
  description: The same as lines for a terminal.
  returned: success
  type: list
  elements: str
"""

import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.backup import command, record
from ansible.module_utils.stationkeeper.backup.judgement import judge
from ansible.module_utils.stationkeeper.backup.look import look
from ansible.module_utils.stationkeeper.backup.tool import BackupError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"settings": {"type": "path", "default": str(command.SETTINGS)}},
        supports_check_mode=True,
    )
    try:
        settings = command.settings(Path(module.params["settings"]))
        now = time.time()
        judged = judge(look(settings.tool, now), record.load(settings.record), settings.objectives, now)
    except (BackupError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        problems=judged.problems,
        backups=judged.backups,
        wal=judged.wal,
        table=judged.table(),
    )


if __name__ == "__main__":
    main()
