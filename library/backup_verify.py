#!/usr/bin/python
"""Ansible module: read a whole repository of database backups and compare it with its checksums."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_verify
short_description: Verify a repository of database backups
description:
  - Runs on the repository host, with nothing but its python3 and pgBackRest.
  - Reads every file of every backup and all WAL. Names the files that are damaged or gone, and the WAL that
    is missing. A damaged repository is a result, not a failure of the module.
  - What was found is noted on the host and exported for Prometheus; in check mode it is not.
version_added: "0.4.0"
author: Stationkeeper
options:
  repository:
    description: Number of the repository.
    type: int
    default: 1
extends_documentation_fragment: [backup_settings]
attributes:
  check_mode:
    description: Verifies likewise, and notes nothing.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
"""

EXAMPLES = r"""
- name: Verify the repository
  backup_verify:
    repository: 1
"""

RETURN = r"""
problems:
  description: What is wrong, each with subject (label of a backup, or wal) and message.
  returned: success
  type: list
  elements: dict
backups:
  description: The status that each backup has, by its label.
  returned: success
  type: dict
  sample: {20260105-021000F: valid}
files:
  description: Number of files of backups that are good.
  returned: success
  type: int
segments:
  description: Number of segments of WAL that are good.
  returned: success
  type: int
"""

import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.backup import command
from ansible.module_utils.stationkeeper.backup.look import verify
from ansible.module_utils.stationkeeper.backup.run import note_verification
from ansible.module_utils.stationkeeper.backup.tool import BackupError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "repository": {"type": "int", "default": 1},
            "settings": {"type": "path", "default": str(command.SETTINGS)},
        },
        supports_check_mode=True,
    )
    repository = module.params["repository"]
    try:
        settings = command.settings(Path(module.params["settings"]))
        report, problems, looked = verify(settings.tool, repository, time.time())
        if not module.check_mode:
            note_verification(settings, repository, report, problems, looked.content.of(repository))
    except (BackupError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        problems=[{"subject": one.subject, "message": one.message} for one in problems],
        backups=report.backups,
        files=report.files,
        segments=sum(valid for _, valid in report.archives.values()),
    )


if __name__ == "__main__":
    main()
