#!/usr/bin/python
"""Ansible module: make a host's restic repository, once."""

from __future__ import annotations

DOCUMENTATION = r"""
module: file_backup_repository
short_description: Make a host's repository of file backups, once
description:
  - Runs on the host that is saved. Makes the repository that its settings name, if there is none, and proves
    that it opens with the passphrase. A repository that opens with another one is refused, never made anew.
  - A host that has saved before and finds no repository is refused too, since its backups are gone then; the
    message says how to begin again.
version_added: "0.1.0"
author: Stationkeeper
options:
  settings:
    description: The settings that role file_backup has written.
    type: path
    default: /etc/stationkeeper/file_backup/settings.json
attributes:
  check_mode:
    description: Says whether a repository would be made.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
requirements:
  - restic on the host
"""

EXAMPLES = r"""
- name: Make the repository, if this host has none yet
  file_backup_repository:
    settings: /etc/stationkeeper/file_backup/settings.json
"""

RETURN = r"""
repository:
  description: Where the repository is, as restic names it.
  returned: success
  type: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.backup.files.repository import converge
from ansible.module_utils.stationkeeper.backup.files.settings import BackupError, load


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "settings": {"type": "path", "default": "/etc/stationkeeper/file_backup/settings.json"},
        },
        supports_check_mode=True,
    )
    try:
        settings = load(Path(module.params["settings"]))
        changed = converge(settings, dry_run=module.check_mode)
    except (BackupError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, repository=settings.repository)


if __name__ == "__main__":
    main()
