#!/usr/bin/python
"""Ansible module: the settled look at the newest logical dump of each database."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_dump
short_description: Look at the newest logical dump of each database and prove its files
description:
  - Runs on a database host, as root or postgres. Finds the newest finished dump of each database, proves
    every file of it by its SHA-256, and returns what is in it.
  - A dump is finished only after it was restored into a server of its own and compared, so this does not
    restore it again. Reads only.
version_added: "0.5.0"
author: Stationkeeper
options:
  directory:
    description: Directory of the dumps.
    type: path
    required: true
  databases:
    description: Names of the databases.
    type: list
    elements: str
    required: true
attributes:
  check_mode:
    description: Reads as always.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
"""

EXAMPLES = r"""
- name: Look at the dumps
  database_dump:
    directory: /var/lib/stationkeeper_dump
    databases: [flux]
  become: true
"""

RETURN = r"""
dumps:
  description: >-
    For each database with a dump its database, directory, began, age_s, size_bytes, tables, rows, and
    damaged, the files that are not what they were.
  returned: success
  type: list
  elements: dict
missing:
  description: Databases without a dump.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.restore.dump_look import look


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "databases": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    base, names = Path(module.params["directory"]), module.params["databases"]
    try:
        dumps = [found for name in names if (found := look(base, name)) is not None]
    except (OSError, ValueError, KeyError) as error:
        module.fail_json(msg=f"the dumps in {base} cannot be read: {error}")
    there = {dump["database"] for dump in dumps}
    module.exit_json(changed=False, dumps=dumps, missing=[name for name in names if name not in there])


if __name__ == "__main__":
    main()
