#!/usr/bin/python
"""Ansible module: count the errors in a host's journal by what they say."""

from __future__ import annotations

DOCUMENTATION = r"""
module: journal_errors
short_description: Count the errors in a host's journal by what they say
description:
  - An entry is an error by its priority, or by its own first words where a program writes everything with one
    priority. Entries that differ only in numbers, times and identifiers are of one kind.
  - Secrets in messages are masked.
version_added: "0.8.0"
author: Stationkeeper
options:
  hours:
    description: How far back to look.
    type: float
    default: 24
  units:
    description: Units to look at. All when empty.
    type: list
    elements: str
    default: []
  limit:
    description: Most kinds that are returned.
    type: int
    default: 20
  known:
    description: Secrets to mask.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: Changes nothing, so it does the same.
    support: full
  diff_mode:
    description: Nothing changes.
    support: none
"""

EXAMPLES = r"""
- name: Look for errors of the controller
  journal_errors:
    units: [bess_controller.service]
    hours: 1
"""

RETURN = r"""
groups:
  description: The kinds, the most frequent first - unit, message (the newest), count, first, last.
  returned: success
  type: list
  elements: dict
errors:
  description: How many errors there are.
  returned: success
  type: int
kinds:
  description: How many kinds there are.
  returned: success
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.audit.redact import Redactor
from ansible.module_utils.stationkeeper.logs.errors import grouped
from ansible.module_utils.stationkeeper.logs.journal import JournalError, lines

_FIELDS = "MESSAGE,PRIORITY,_SYSTEMD_UNIT,SYSLOG_IDENTIFIER"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "hours": {"type": "float", "default": 24},
            "units": {"type": "list", "elements": "str", "default": []},
            "limit": {"type": "int", "default": 20},
            "known": {"type": "list", "elements": "str", "default": [], "no_log": True},
        },
        supports_check_mode=True,
    )
    given = module.params
    if given["limit"] < 1:
        module.fail_json(msg="limit is at least 1")
    program = module.get_bin_path("journalctl", required=True)
    try:
        groups = grouped(lines(program, given["hours"], given["units"], _FIELDS), Redactor(given["known"]))
    except JournalError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=False,
        groups=[one.as_dict() for one in groups[: given["limit"]]],
        errors=sum(one.count for one in groups),
        kinds=len(groups),
    )


if __name__ == "__main__":
    main()
