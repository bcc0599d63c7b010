#!/usr/bin/python
"""Ansible module: save a host's files or its cache now."""

from __future__ import annotations

DOCUMENTATION = r"""
module: file_backup_run
short_description: Save a host's files or its cache now, verified
description:
  - Runs on the host that is saved. Starts the same unit as the timer, waits for its end, and returns what was
    saved. Fails when the backup was not saved, or not proven; older backups stay as they were then.
version_added: "0.1.0"
author: Stationkeeper
options:
  kind:
    description: What is saved.
    type: str
    choices: [files, cache]
    required: true
  settings:
    description: The settings that role file_backup has written.
    type: path
    default: /etc/stationkeeper/file_backup/settings.json
attributes:
  check_mode:
    description: Says which sets would be saved.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Save the cache now
  file_backup_run:
    kind: cache
"""

RETURN = r"""
sets:
  description: >-
    For each set its name, and of those that were saved the snapshot, files, bytes, how many files were
    restored and compared, and about the cache its keys.
  returned: success
  type: list
  elements: dict
message:
  description: What was done, in a line.
  returned: success
  type: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.backup.files.settings import KINDS, BackupError, load
from ansible.module_utils.stationkeeper.backup.files.start import start


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "kind": {"type": "str", "choices": list(KINDS), "required": True},
            "settings": {"type": "path", "default": "/etc/stationkeeper/file_backup/settings.json"},
        },
        supports_check_mode=True,
    )
    kind = module.params["kind"]
    try:
        settings = load(Path(module.params["settings"]))
        sets = [{"name": one.name} for one in settings.of_kind(kind)]
        if not sets:
            module.fail_json(msg=f"{settings.host} has no set of kind {kind} to save")
        if module.check_mode:
            names = ", ".join(one["name"] for one in sets)
            module.exit_json(changed=True, sets=sets, message=f"would be saved: {names}")
        result = start(settings, kind)
    except (BackupError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=True, sets=result["sets"], message=result["message"])


if __name__ == "__main__":
    main()
