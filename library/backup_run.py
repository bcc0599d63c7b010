#!/usr/bin/python
"""Ansible module: make a backup of the database through the repository host's own unit."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_run
short_description: Make a backup of the database, verified
description:
  - Runs on the repository host. Starts the unit that the timers start, so that the backup goes on when the
    connection is lost, and waits for its end.
  - Fails with what the unit says when no backup was made or it is not good. Old backups are then all kept.
version_added: "0.4.0"
author: Stationkeeper
options:
  type:
    description: Kind of backup. V(archive) is a full one into the repository that is kept for a year.
    type: str
    choices: [full, diff, incr, archive]
    required: true
extends_documentation_fragment: [backup_settings]
attributes:
  check_mode:
    description: Says that a backup would be made, and what is there.
    support: full
  diff_mode:
    description: Shows the backups before and after.
    support: full
"""

EXAMPLES = r"""
- name: Make a differential backup
  backup_run:
    type: diff
"""

RETURN = r"""
message:
  description: Which backup was made, its size, how long it took, and what was pruned.
  returned: success
  type: str
label:
  description: Label of the new backup; empty in check mode.
  returned: success
  type: str
"""

import subprocess
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.backup import command, record
from ansible.module_utils.stationkeeper.backup.content import parse
from ansible.module_utils.stationkeeper.backup.run import TYPES, Settings
from ansible.module_utils.stationkeeper.backup.tool import BackupError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "type": {"type": "str", "choices": list(TYPES), "required": True},
            "settings": {"type": "path", "default": str(command.SETTINGS)},
        },
        supports_check_mode=True,
    )
    kind = module.params["type"]
    try:
        settings = command.settings(Path(module.params["settings"]))
        before = _labels(settings)
        if module.check_mode:
            said = f"would make a {kind} backup beside {len(before)}, verify the repository, and prune"
            module.exit_json(changed=True, message=said, label="")
        message = _make(settings, kind)
        after = _labels(settings)
    except (BackupError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    new = [label for label in after if label not in before]
    diff = {"before": "\n".join(before) + "\n", "after": "\n".join(after) + "\n"}
    module.exit_json(changed=True, message=message, label=(new or [""])[-1], diff=diff)


def _labels(settings: Settings) -> list[str]:
    backups = parse(settings.tool.info(), settings.stanza).backups
    return [f"{one.repository}/{one.label}" for one in backups]


def _make(settings: Settings, kind: str) -> str:
    began = time.time()
    unit = f"stationkeeper-backup@{kind}.service"
    done = subprocess.run(["systemctl", "start", unit], capture_output=True, text=True, check=False)
    run = record.load(settings.record).runs.get(f"database_{kind}")
    # A unit that died before its end has left the note of an earlier run.
    if run is None or run["at"] < began:
        message = f"{unit} ended without a word; see `journalctl -u {unit}`: {done.stderr.strip()}"
        raise BackupError(message)
    if done.returncode != 0 or not run["succeeded"]:
        raise BackupError(str(run["message"]))
    return str(run["message"])


if __name__ == "__main__":
    main()
