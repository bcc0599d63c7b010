#!/usr/bin/python
"""Ansible module: install the program that makes backups of the database on the repository host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_program
short_description: Install what backs up the database and verifies it
description:
  - Runs on the repository host. Writes those parts of this repository's package that backups need, which
    Ansible has sent with this module, to a directory. They need nothing but python3.
version_added: "0.4.0"
author: Stationkeeper
options:
  path:
    description: The directory, which has to exist. The package is a directory in it.
    type: path
    required: true
attributes:
  check_mode:
    description: Says which files would change.
    support: full
  diff_mode:
    description: Names the files.
    support: full
"""

EXAMPLES = r"""
- name: Install the program
  backup_program:
    path: /usr/local/lib/stationkeeper_backup
"""

RETURN = r"""
files:
  description: Files that were written, or would be, by their path from the directory.
  returned: success
  type: list
  elements: str
"""

import sys
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.backup import command
from ansible.module_utils.stationkeeper.files import write_atomically

_PREFIX = "ansible.module_utils."


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"path": {"type": "path", "required": True}}, supports_check_mode=True
    )
    root = Path(module.params["path"])
    wanted = _sources(command.__name__.split(".backup")[0])
    try:
        changed = [name for name, text in wanted.items() if _there(root / name) != text]
        if not module.check_mode:
            for name in changed:
                (root / name).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
                write_atomically(root / name, wanted[name], mode=0o644)
    except OSError as error:
        module.fail_json(msg=str(error))
    diff = {"prepared": "".join(f"{name}\n" for name in changed)}
    module.exit_json(changed=bool(changed), files=changed, diff=diff)


def _sources(package: str) -> dict[str, str]:
    """Return the source of every module of the package that is loaded: all that the program imports."""
    found = {}
    for name, loaded in sorted(sys.modules.items()):
        if name != package and not name.startswith(f"{package}."):
            continue
        path = name.removeprefix(_PREFIX).replace(".", "/")
        path += "/__init__.py" if hasattr(loaded, "__path__") else ".py"
        found[path] = loaded.__loader__.get_source(name) or ""
    return found


def _there(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None


if __name__ == "__main__":
    main()
