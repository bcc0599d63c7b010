#!/usr/bin/python
"""Ansible module: install the program that makes logical dumps on a database host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: database_dump_program
short_description: Install what dumps the database and looks at the dumps
description:
  - Runs on the database host. Writes those parts of this repository's package that logical dumps need, which
    Ansible has sent with this module, to a directory. They need nothing but python3.
version_added: "0.5.0"
author: Stationkeeper
options:
  path:
    description: The directory. The package is a directory in it. What is missing is made, with mode 0755.
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
  database_dump_program:
    path: /usr/local/lib/stationkeeper-dump
"""

RETURN = r"""
files:
  description: Files that were written, or would be, by their path from the directory.
  returned: success
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper import carried
from ansible.module_utils.stationkeeper.restore import dump_command  # noqa: F401 (what is carried)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"path": {"type": "path", "required": True}}, supports_check_mode=True
    )
    carried.run(module)


if __name__ == "__main__":
    main()
