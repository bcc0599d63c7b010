#!/usr/bin/python
"""Ansible module: drop what comes from an address, until a moment."""

from __future__ import annotations

DOCUMENTATION = r"""
module: address_block
short_description: Drop everything that comes from an address, for some time
description:
  - Runs on the host as root. Keeps a table of nftables of its own, one rule for each address. It stands
    before the tracking of connections, so connections that stand are cut, too.
  - Each rule has its end in it and ends by itself. The file is loaded again at boot by
    C(stationkeeper-rules@blocked.service).
  - Refuses, before anything is changed, what would cut off a protected address.
version_added: "0.6.0"
author: Stationkeeper
options:
  addresses:
    description: Addresses and networks, of IPv4 up to a /16 and of IPv6 up to a /32.
    type: list
    elements: str
    required: true
  state:
    description: Whether they are to be blocked.
    type: str
    choices: [present, absent]
    default: present
  hours:
    description: For how long. One that is blocked for longer already stays so.
    type: float
    default: 24
  note:
    description: The run that wants it, for whoever looks at the rules.
    type: str
    default: ""
  protected:
    description: Addresses, networks and names that are not to be blocked.
    type: list
    elements: str
    default: []
  path:
    description: The file with the rules. Its directory is made with mode 0755 if it is missing.
    type: path
    default: /etc/stationkeeper/blocked.nft
attributes:
  check_mode:
    description: Says what would change, after nft has checked it.
    support: full
  diff_mode:
    description: Shows the file.
    support: full
"""

EXAMPLES = r"""
- name: Block an address for a day
  address_block:
    addresses: [203.0.113.7]
    protected: ["{{ stationkeeper_control_address }}"]
"""

RETURN = r"""
blocks:
  description: >-
    What is blocked now, or would be: address, until (RFC 3339), comment (of the rule in the kernel) and
    packets that this rule has dropped so far.
  returned: success
  type: list
  elements: dict
  sample:
    - {address: 203.0.113.7/32, until: "2026-11-22T10:00:00+00:00", packets: 12,
       comment: "until 2026-11-22T10:00:00Z, run 1"}
"""

import time
from datetime import UTC, datetime
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.access import blocks
from ansible.module_utils.stationkeeper.access.nftables import NftError, addresses, load, nft, quotable


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "addresses": {"type": "list", "elements": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "hours": {"type": "float", "default": 24},
            "note": {"type": "str", "default": ""},
            "protected": {"type": "list", "elements": "str", "default": []},
            "path": {"type": "path", "default": "/etc/stationkeeper/blocked.nft"},
        },
        supports_check_mode=True,
    )
    given = module.params
    path = Path(given["path"])
    now = int(time.time())
    present = given["state"] == "present"
    try:
        wanted = [blocks.network(text) for text in given["addresses"]]
        if present:
            blocks.require_unprotected(wanted, {name: addresses(name) for name in given["protected"]})
        before = path.read_text() if path.exists() else ""
        after = blocks.changed(
            blocks.read(before),
            wanted,
            until=now + int(given["hours"] * 3600) if present else None,
            note=quotable(given["note"]),
            now=now,
        )
        text = blocks.written(after)
        running = blocks.in_force(nft("--json", "list", "ruleset"))
        changed = (bool(after) or bool(before)) and text != before
        changed = changed or running.keys() != {one.comment for one in after}
        nft("--check", "--file", "-", given=text)
        if changed and not module.check_mode:
            load(path, text)
    except (blocks.BlockError, NftError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=changed,
        blocks=[
            {
                "address": str(one.network),
                "until": datetime.fromtimestamp(one.until, tz=UTC).isoformat(),
                "comment": one.comment,
                "packets": running.get(one.comment, 0),
            }
            for one in after
        ],
        diff={"before": before, "after": text, "before_header": str(path), "after_header": str(path)},
    )


if __name__ == "__main__":
    main()
