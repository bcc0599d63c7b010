#!/usr/bin/python
"""Ansible module: cut a host off from all but a few addresses, until a moment."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_isolate
short_description: Cut a host off from all but a few addresses, for some time
description:
  - Runs on the host as root. Keeps a table of nftables of its own that drops what comes from other addresses
    and what goes to them, also on connections that stand. The host's own loopback stays.
  - The isolation ends by itself at its time. So a first, short one is undone without anybody, and a longer
    one follows when somebody has come through. One that lasts long enough already is kept.
  - Refuses when no session of ssh that stands now comes from an address that is kept.
version_added: "0.6.0"
author: Stationkeeper
options:
  state:
    description: Whether the host is to be cut off.
    type: str
    choices: [present, absent]
    default: present
  keep:
    description: Addresses, networks and names that go on to reach the host and to be reached by it.
    type: list
    elements: str
    default: []
  seconds:
    description: For how long from now.
    type: int
    default: 120
  note:
    description: The run that wants it, for whoever looks at the rules.
    type: str
    default: ""
  path:
    description: The file with the rules, which is loaded again at boot.
    type: path
    default: /etc/stationkeeper/isolated.nft
attributes:
  check_mode:
    description: Says what would change, after nft has checked it.
    support: full
  diff_mode:
    description: Shows the file.
    support: full
"""

EXAMPLES = r"""
- name: Cut the host off for two minutes
  host_isolate:
    keep: ["{{ stationkeeper_control_address }}"]
"""

RETURN = r"""
until:
  description: When the isolation ends (RFC 3339). Empty when there is none.
  returned: success
  type: str
comment:
  description: What stands beside the rules in the kernel. Empty when there is none.
  returned: success
  type: str
"""

import time
from datetime import UTC, datetime
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.access import isolation, way_back
from ansible.module_utils.stationkeeper.access.nftables import (
    NftError,
    addresses,
    comment,
    load,
    nft,
    quotable,
    removed,
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "keep": {"type": "list", "elements": "str", "default": []},
            "seconds": {"type": "int", "default": 120},
            "note": {"type": "str", "default": ""},
            "path": {"type": "path", "default": "/etc/stationkeeper/isolated.nft"},
        },
        supports_check_mode=True,
    )
    given = module.params
    path = Path(given["path"])
    now = int(time.time())
    until = now + given["seconds"]
    note = quotable(given["note"])
    present = given["state"] == "present"
    try:
        before = path.read_text() if path.exists() else ""
        text = ""
        if present:
            keep = [address for name in given["keep"] for address in addresses(name)]
            way_back.require(way_back.peers(), keep, "keep")
            until, note = isolation.until_and_note(before, keep, until, note, now)
            text = isolation.written(keep, until, note)
            nft("--check", "--file", "-", given=text)
        beside = comment(until, note) if present else ""
        rules = nft("list", "ruleset")
        in_force = f"table inet {isolation.TABLE}" in rules
        changed = text != before or in_force != present or beside not in rules
        if changed and not module.check_mode:
            if present:
                load(path, text)
            else:
                path.unlink(missing_ok=True)
                nft("--file", "-", given=removed(isolation.TABLE))
    except (way_back.WayBackError, NftError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=changed,
        until=datetime.fromtimestamp(until, tz=UTC).isoformat() if present else "",
        comment=beside,
        diff={"before": before, "after": text, "before_header": str(path), "after_header": str(path)},
    )


if __name__ == "__main__":
    main()
