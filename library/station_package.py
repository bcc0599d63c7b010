#!/usr/bin/python
"""Ansible module: install a wheelhouse on a station as the release in force."""

from __future__ import annotations

DOCUMENTATION = r"""
module: station_package
short_description: Install the Stationkeeper package on a station from a wheelhouse, without internet
description:
  - Makes a virtual environment of its own for each content id below C(root)/releases and switches the link
    C(root)/venv to it in one step. The previous release is kept; a failed installation leaves it in force.
  - Needs nothing on the station but python3.
version_added: "0.1.0"
author: Stationkeeper
options:
  root:
    description: Directory of the releases and of the link C(venv).
    type: path
    default: /opt/stationkeeper
  archive:
    description: Archive made by M(station_wheelhouse), on the station.
    type: path
    required: true
  content_id:
    description: The content id that M(station_wheelhouse) returned.
    type: str
    required: true
attributes:
  check_mode:
    description: Says whether the release would change; the archive need not be there.
    support: full
  diff_mode:
    description: Shows the content id before and after.
    support: full
"""

EXAMPLES = r"""
- name: Install the package
  station_package:
    archive: /opt/stationkeeper/wheelhouse.tar
    content_id: 1ce413038db9
"""

RETURN = r"""
content_id:
  description: The release that is (in check mode, would be) in force.
  returned: success
  type: str
previous:
  description: The release that was in force before, empty when there was none.
  returned: success
  type: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.station import release


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/opt/stationkeeper"},
            "archive": {"type": "path", "required": True},
            "content_id": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    root = Path(module.params["root"])
    wanted = module.params["content_id"]
    previous = release.installed(root) or ""
    changed = previous != wanted
    if changed and not module.check_mode:
        try:
            release.install(root, Path(module.params["archive"]), wanted)
        except release.ReleaseError as error:
            module.fail_json(msg=f"The package was not installed, the release in force is untouched: {error}")
    module.exit_json(
        changed=changed,
        content_id=wanted,
        previous=previous,
        diff={"before": f"{previous}\n", "after": f"{wanted}\n"},
    )


if __name__ == "__main__":
    main()
