#!/usr/bin/python
"""Ansible module: restore sets of files on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: file_backup_restore
short_description: Restore sets of files, into a directory of their own or into place
description:
  - Runs on the host whose files are restored. Each set is restored into a directory of its own and proven
    there, file by file against the checksums of the snapshot, with owner, mode and size.
  - Into place it goes from there. What differs is kept under a dated name, what the backup does not have
    stays, and the set's services are stopped meanwhile. Owners are those of the same name on this host.
version_added: "0.1.0"
author: Stationkeeper
options:
  sets:
    description: Names of the sets.
    type: list
    elements: str
    required: true
  snapshot:
    description: Begin of a snapshot's id, or V(latest) for the newest that is verified.
    type: str
    default: latest
  paths:
    description: Only these files and directories. All of the sets when empty.
    type: list
    elements: path
    default: []
  in_place:
    description: Put the files where they belong.
    type: bool
    default: false
  settings:
    description: The settings that role file_backup has written.
    type: path
    default: /etc/stationkeeper/file_backup/settings.json
attributes:
  check_mode:
    description: Restores into a directory that is removed again, and says what would be put in place.
    support: full
  diff_mode:
    description: Shows a line for each file that would be created or replaced.
    support: full
requirements:
  - restic on the host
"""

EXAMPLES = r"""
- name: Look at yesterday's configuration
  file_backup_restore:
    sets: [configuration]
"""

RETURN = r"""
restored:
  description: >-
    For each set its snapshot with its time, the directory it was restored to (scratch, empty when it was put
    in place), files, bytes, the paths that were created, replaced and left out, how many were as in the
    backup, and where the replaced ones are kept.
  returned: success
  type: list
  elements: dict
"""

import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.backup.files.restore import Restored, in_place, to_scratch
from ansible.module_utils.stationkeeper.backup.files.settings import BackupError, load


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "sets": {"type": "list", "elements": "str", "required": True},
            "snapshot": {"type": "str", "default": "latest"},
            "paths": {"type": "list", "elements": "path", "default": []},
            "in_place": {"type": "bool", "default": False},
            "settings": {"type": "path", "default": "/etc/stationkeeper/file_backup/settings.json"},
        },
        supports_check_mode=True,
    )
    params = module.params
    restored: list[Restored] = []
    only = [Path(path) for path in params["paths"]]
    try:
        settings = load(Path(params["settings"]))
        for name in params["sets"]:
            settings.named(name)
        for name in params["sets"]:
            one = to_scratch(settings, name, snapshot=params["snapshot"], only=only)
            restored.append(one)
            if params["in_place"]:
                in_place(settings, one, dry_run=module.check_mode)
            if module.check_mode:
                shutil.rmtree(one.scratch)
                one.scratch = ""
    except (BackupError, OSError) as error:
        module.fail_json(msg=str(error), restored=[vars(one) for one in restored])
    changes = [line for one in restored for line in one.changes]
    diff = (
        {"diff": {"prepared": "".join(f"{line}\n" for line in changes)}} if module._diff and changes else {}
    )
    # A directory of its own is a change, too: it takes space until somebody removes it.
    changed = bool(changes) if params["in_place"] else True
    module.exit_json(changed=changed, restored=[vars(one) for one in restored], **diff)


if __name__ == "__main__":
    main()
