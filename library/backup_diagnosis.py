#!/usr/bin/python
"""Ansible module: why backups of the database fail."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_diagnosis
short_description: Ask why backups of the database fail
description:
  - Runs on the repository host. Asks for configuration, disk, stop files, the log, the connection to every
    database host, the repositories and the archiving of WAL. Changes nothing, but that the database ends a
    segment of WAL to see whether it arrives.
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
- name: Ask why backups fail
  backup_diagnosis:
  check_mode: false
"""

RETURN = r"""
answers:
  description: Each question with name, good, message, and mend (what mends it).
  returned: success
  type: list
  elements: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.backup import command
from ansible.module_utils.stationkeeper.backup.diagnosis import diagnose
from ansible.module_utils.stationkeeper.backup.tool import BackupError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"settings": {"type": "path", "default": str(command.SETTINGS)}},
        supports_check_mode=True,
    )
    try:
        answers = diagnose(command.settings(Path(module.params["settings"])))
    except (BackupError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, answers=[one.as_dict() for one in answers])


if __name__ == "__main__":
    main()
