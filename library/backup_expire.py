#!/usr/bin/python
"""Ansible module: prune a repository of database backups, only when that is safe."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_expire
short_description: Prune database backups
description:
  - Runs on the repository host. Takes away what the retention does not keep, or one backup that is named,
    with all that is based on it and the WAL that nothing needs any more.
  - Refuses when the newest backup is not verified, when one that would stay is known to be damaged, or when
    no verified backup would be left.
version_added: "0.4.0"
author: Stationkeeper
options:
  repository:
    description: Number of the repository.
    type: int
    default: 1
  label:
    description: One backup to remove. What the retention does not keep, when left out.
    type: str
    default: ""
extends_documentation_fragment: [backup_settings]
attributes:
  check_mode:
    description: Says what would go, as pgBackRest itself says it.
    support: full
  diff_mode:
    description: Shows the backups before and after.
    support: full
"""

EXAMPLES = r"""
- name: Prune the repository
  backup_expire:
    repository: 1
"""

RETURN = r"""
going:
  description: Labels of the backups that go, or would.
  returned: success
  type: list
  elements: str
staying:
  description: Labels of those that stay.
  returned: success
  type: list
  elements: str
said:
  description: What pgBackRest says that it removes, WAL too.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.backup import command, record
from ansible.module_utils.stationkeeper.backup.content import parse
from ansible.module_utils.stationkeeper.backup.expiry import expire, plan, refusal
from ansible.module_utils.stationkeeper.backup.tool import BackupError


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "repository": {"type": "int", "default": 1},
            "label": {"type": "str", "default": ""},
            "settings": {"type": "path", "default": str(command.SETTINGS)},
        },
        supports_check_mode=True,
    )
    repository, label = module.params["repository"], module.params["label"]
    try:
        settings = command.settings(Path(module.params["settings"]))
        backups = parse(settings.tool.info(), settings.stanza).of(repository)
        if label and label not in {one.label for one in backups}:
            module.fail_json(msg=f"repository {repository} has no backup {label}; nothing was touched")
        planned = plan(settings.tool, repository, label)
        reason = refusal(planned, backups, record.load(settings.record))
        if reason:
            module.fail_json(msg=f"Refused, nothing was touched: {reason}", going=planned.going)
        if planned.said and not module.check_mode:
            left = expire(settings.tool, repository, label)
            if left != planned.staying:
                module.fail_json(msg=f"{', '.join(planned.staying)} should be left, {', '.join(left)} are")
    except (BackupError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=bool(planned.said),
        going=planned.going,
        staying=planned.staying,
        said=planned.said,
        diff={
            "before": "".join(f"{one.label}\n" for one in backups),
            "after": "".join(f"{one}\n" for one in planned.staying),
        },
    )


if __name__ == "__main__":
    main()
