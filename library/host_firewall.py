#!/usr/bin/python
"""Ansible module: refuse what a host is not declared to serve."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_firewall
short_description: Let in what is declared, and refuse everything else
description:
  - Rules of nftables in a table of their own, and in a file to be loaded at boot. Connections that stand and
    their answers, the host's own, ICMP and what is declared pass. Others get a refusal, so nobody waits.
  - With C(trial_s) rules that are not in force yet end by themselves after that time. Whoever has come in
    again on a new connection calls the module without it, and they stay.
  - Refuses rules under which none of those who are logged in by ssh now could come again.
  - What the host sends is not filtered.
version_added: "0.7.0"
author: Stationkeeper
options:
  state:
    description: Whether there are rules.
    type: str
    choices: [present, absent]
    default: present
  ports:
    description: What the host serves.
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: Its number.
        type: int
        required: true
      protocol:
        description: Its protocol.
        type: str
        choices: [tcp, udp]
        default: tcp
      service:
        description: What serves there.
        type: str
        default: ""
      from:
        description: Networks that may use it; those of C(sources) when empty.
        type: list
        elements: str
        default: []
  sources:
    description: Networks that may use every port that names no others.
    type: list
    elements: str
    default: []
  ssh_port:
    description: Where sshd listens.
    type: int
    default: 22
  trial_s:
    description: Seconds after which new rules end. They stay when it is 0.
    type: int
    default: 0
  path:
    description: The file.
    type: path
    default: /etc/stationkeeper/firewall.nft
attributes:
  check_mode:
    description: Says whether the rules would change. On a host without nft they would.
    support: full
  diff_mode:
    description: Shows the file.
    support: full
"""

EXAMPLES = r"""
- name: Serve ssh to the VPN, and the web to everybody
  host_firewall:
    ports:
      - {port: 22, service: ssh}
      - {port: 443, service: nginx, from: [0.0.0.0/0, "::/0"]}
    sources: [10.8.0.0/24]
    trial_s: 120
"""

RETURN = r"""
until:
  description: When the rules end that nobody has confirmed (RFC 3339, UTC); empty for those that stay.
  returned: success
  type: str
"""

import time
from datetime import UTC, datetime
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.access import firewall, way_back
from ansible.module_utils.stationkeeper.access.nftables import NFT, NftError, load, nft, removed

_PORT = {
    "port": {"type": "int", "required": True},
    "protocol": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
    "service": {"type": "str", "default": ""},
    "from": {"type": "list", "elements": "str", "default": []},
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "ports": {"type": "list", "elements": "dict", "default": [], "options": _PORT},
            "sources": {"type": "list", "elements": "str", "default": []},
            "ssh_port": {"type": "int", "default": 22},
            "trial_s": {"type": "int", "default": 0},
            "path": {"type": "path", "default": "/etc/stationkeeper/firewall.nft"},
        },
        supports_check_mode=True,
    )
    given = module.params
    path = Path(given["path"])
    present = given["state"] == "present"
    until = 0
    try:
        before = path.read_text() if path.exists() else ""
        allowed = firewall.ports(given["ports"], given["sources"])
        text = firewall.written(allowed) if present else ""
        installed = Path(NFT).exists()
        rules = nft("list", "ruleset") if installed or not module.check_mode else ""
        in_force = f"table inet {firewall.TABLE} " in rules and (not present or firewall.mark(text) in rules)
        changed = text != before or in_force != present
        if present and changed:
            way_back.require(way_back.peers(), firewall.ssh_networks(allowed, given["ssh_port"]), "sources")
            if given["trial_s"]:
                until = int(time.time()) + given["trial_s"]
                text = firewall.written(allowed, until)
            if installed:
                nft("--check", "--file", "-", given=text)
        if changed and not module.check_mode:
            if present:
                load(path, text)
            else:
                path.unlink(missing_ok=True)
                nft("--file", "-", given=removed(firewall.TABLE))
    except (way_back.WayBackError, NftError, OSError, ValueError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=changed,
        until=datetime.fromtimestamp(until, tz=UTC).isoformat() if until else "",
        diff={"before": before, "after": text, "before_header": str(path), "after_header": str(path)},
    )


if __name__ == "__main__":
    main()
