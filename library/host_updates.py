#!/usr/bin/python
"""Ansible module: which updates wait on a host, and what has to be restarted for those that are installed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_updates
short_description: Say which updates wait on a host
description:
  - Asks apt what an upgrade would do, with the lists of packages that are there. Says which updates are
    wanted and which are left out, whether the host needs a reboot, and which units run on with files that
    were replaced.
  - Changes nothing but the figures for Prometheus, where C(figures) names their file.
version_added: "0.7.0"
author: Stationkeeper
options:
  scope:
    description: Which updates are wanted.
    type: str
    choices: [security, all]
    default: security
  exclude:
    description: Regular expressions of packages that are left out.
    type: list
    elements: str
    default: []
  figures:
    description: The file for node_exporter's textfile collector. Not written when its directory is not there.
    type: path
attributes:
  check_mode:
    description: Says the same and writes no figures.
    support: full
  diff_mode:
    description: The updates are the result.
    support: none
"""

EXAMPLES = r"""
- name: Ask which security updates wait
  host_updates:
    exclude: ["postgresql-"]
  register: updates
"""

RETURN = r"""
wanted:
  description: Updates to install - package, before, after, security.
  returned: success
  type: list
  elements: dict
left:
  description: Updates that are not wanted.
  returned: success
  type: list
  elements: dict
reboot:
  description: Why the host needs a reboot; empty when it does not.
  returned: success
  type: str
restart:
  description: Units that run on with files that were replaced, and may be restarted.
  returned: success
  type: list
  elements: str
kept:
  description: Such units that have a runbook of their own, or that only a reboot restarts.
  returned: success
  type: list
  elements: str
"""

import os
import re
import subprocess
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.files import write_atomically
from ansible.module_utils.stationkeeper.patching import updates

_SIMULATE = ["apt-get", "--simulate", "--quiet", "--with-new-pkgs", "upgrade"]
_TIMEOUT_S = 300


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "scope": {"type": "str", "choices": ["security", "all"], "default": "security"},
            "exclude": {"type": "list", "elements": "str", "default": []},
            "figures": {"type": "path"},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        environment = {**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
        simulated = subprocess.run(
            _SIMULATE, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S, env=environment
        ).stdout
        found = updates.split(
            updates.parse(simulated), security_only=given["scope"] == "security", exclude=given["exclude"]
        )
    except subprocess.CalledProcessError as error:
        module.fail_json(msg=f"apt cannot say what an upgrade would do: {error.stderr.strip()}")
    except (OSError, subprocess.TimeoutExpired, re.error) as error:
        module.fail_json(msg=f"which updates wait is not known: {error}")
    restart, kept = updates.restarts(_outdated())
    reboot = _reboot()
    changed = False
    if given["figures"] and not module.check_mode:
        changed = _figures(Path(given["figures"]), found, bool(reboot))
    module.exit_json(
        changed=changed,
        wanted=[update.as_dict() for update in found.wanted],
        left=[update.as_dict() for update in found.left],
        reboot=reboot,
        restart=restart,
        kept=kept,
    )


def _figures(path: Path, found: updates.Split, reboot: bool) -> bool:
    if not path.parent.is_dir():
        return False
    waiting = [*found.wanted, *found.left]
    security = sum(update.security for update in waiting)
    before = path.read_text() if path.exists() else ""
    done = not security and not reboot
    at = time.time() if done else updates.complete_at(before)
    text = updates.figures(security, len(waiting) - security, reboot, at)
    write_atomically(path, text, mode=0o644)
    return True


def _reboot() -> str:
    """Return why the host needs a reboot. A kernel that is not of a package of its own says nothing."""
    if Path("/run/reboot-required").exists():
        named = Path("/run/reboot-required.pkgs")
        packages = sorted(set(named.read_text().split())) if named.exists() else []
        return ", ".join(packages) or "a package says so"
    kernels = [path.name.removeprefix("vmlinuz-") for path in Path("/boot").glob("vmlinuz-*")]
    newest, running = updates.newest(kernels), os.uname().release
    return f"kernel {newest}" if running in kernels and running != newest else ""


def _outdated() -> list[str]:
    maps, units = {}, {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            maps[process.name] = (process / "maps").read_text(errors="replace")
            units[process.name] = (process / "cgroup").read_text()
        except OSError:
            # It has ended, or is one of the kernel's.
            continue
    return updates.outdated(maps, units)


if __name__ == "__main__":
    main()
