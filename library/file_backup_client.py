#!/usr/bin/python
"""Ansible module: give a host what it needs to save its files."""

from __future__ import annotations

DOCUMENTATION = r"""
module: file_backup_client
short_description: Give a host the program, the key and the settings of its file backups
description:
  - Runs on the host that is saved. Writes the backup's program (standard library of Python only, so that any
    host can run it), the files of its configuration, and makes a key for the host, once.
version_added: "0.1.0"
author: Stationkeeper
options:
  program:
    description: Directory of the program.
    type: path
    required: true
  configuration:
    description: Directory of the configuration and the key; only root may look into it.
    type: path
    required: true
  state:
    description: Directory of the program's state; only root may look into it.
    type: path
    required: true
  files:
    description: Texts of the configuration's files, by their names.
    type: dict
    required: true
  host:
    description: Name of the host, a remark in its key.
    type: str
    required: true
attributes:
  check_mode:
    description: Says what would be written.
    support: full
  diff_mode:
    description: Shows the paths, and no content since there are secrets among it.
    support: full
"""

EXAMPLES = r"""
- name: Give this host what its backups need
  file_backup_client:
    program: /usr/local/lib/stationkeeper_file_backup
    configuration: /etc/stationkeeper/file_backup
    state: /var/lib/stationkeeper_file_backup
    host: "{{ inventory_hostname }}"
    files:
      passphrase: "{{ secret_backup_files_passphrase }}"
"""

RETURN = r"""
public_key:
  description: The host's public key; empty when check mode has not made it.
  returned: success
  type: str
paths:
  description: What was written, or would be.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.backup.files import command  # noqa: F401  (so that all of it comes along)
from ansible.module_utils.stationkeeper.backup.files.client import Layout, converge, public_key
from ansible.module_utils.stationkeeper.backup.files.settings import BackupError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "program": {"type": "path", "required": True},
            "configuration": {"type": "path", "required": True},
            "state": {"type": "path", "required": True},
            "files": {"type": "dict", "required": True, "no_log": True},
            "host": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    layout = Layout(Path(params["program"]), Path(params["configuration"]), Path(params["state"]))
    try:
        paths = converge(layout, params["files"], params["host"], dry_run=module.check_mode)
        key = public_key(layout)
    except (BackupError, OSError) as error:
        module.fail_json(msg=str(error))
    diff = {"diff": {"prepared": "".join(f"{path}\n" for path in paths)}} if module._diff and paths else {}
    module.exit_json(changed=bool(paths), public_key=key, paths=paths, **diff)


if __name__ == "__main__":
    main()
