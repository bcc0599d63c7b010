#!/usr/bin/python
"""Ansible module: build, on the control node, the wheelhouse that a station is installed from."""

from __future__ import annotations

DOCUMENTATION = r"""
module: station_wheelhouse
short_description: Build the archive that installs this repository's package on a host without internet
description:
  - Runs on the control node. Downloads the locked dependencies for the station's Python and architecture,
    checks their hashes, builds a wheel of this repository, and packs all of it with pip into one tar archive.
  - Archives are named by a hash of sources and locks, so equal content is built once for all stations.
version_added: "0.1.0"
author: Stationkeeper
options:
  repository:
    description: Root of this repository.
    type: path
    required: true
  cache:
    description: Directory that keeps the archives. Three for each Python and architecture are kept.
    type: path
    required: true
  python_version:
    description: The station's Python as major and minor number, for example V(3.13).
    type: str
    required: true
  architecture:
    description: The station's machine architecture.
    type: str
    required: true
  host:
    description: The kind of host. A hub also gets the libraries of the scheduled jobs.
    type: str
    choices: [station, hub]
    default: station
  content_id:
    description: A version that was built before and is still in O(cache). Left out, this repository's own.
    type: str
attributes:
  check_mode:
    description: Names the archive and says whether it is there; builds nothing.
    support: full
  diff_mode:
    description: An archive has no readable difference.
    support: none
"""

EXAMPLES = r"""
- name: Build the wheelhouse of this station's kind
  station_wheelhouse:
    repository: /srv/stationkeeper
    cache: /srv/stationkeeper/.cache/wheelhouse
    python_version: "3.13"
    architecture: aarch64
  delegate_to: localhost
  become: false
"""

RETURN = r"""
content_id:
  description: Hash over sources and locks, 12 hex digits.
  returned: success
  type: str
  sample: 1ce413038db9
archive:
  description: Path of the archive on the control node.
  returned: success
  type: str
available:
  description: Whether the archive exists now. False only in check mode before the first build.
  returned: success
  type: bool
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

try:
    from stationkeeper.station import wheelhouse
except ImportError:
    wheelhouse = None  # type: ignore[assignment]  # reported below, with how to install it


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "repository": {"type": "path", "required": True},
            "cache": {"type": "path", "required": True},
            "python_version": {"type": "str", "required": True},
            "architecture": {"type": "str", "required": True},
            "host": {"type": "str", "choices": ["station", "hub"], "default": "station"},
            "content_id": {"type": "str"},
        },
        supports_check_mode=True,
    )
    if wheelhouse is None:
        module.fail_json(
            msg="the stationkeeper package is missing on the control node: run `make setup` in the repository"
        )
    params = module.params
    cache, kind = Path(params["cache"]), (params["python_version"], params["architecture"])
    act = wheelhouse.describe if module.check_mode else wheelhouse.ensure
    try:
        if params["content_id"]:
            result = wheelhouse.kept(cache, *kind, params["content_id"], host=params["host"])
        else:
            result = act(Path(params["repository"]), cache, *kind, host=params["host"])
    except wheelhouse.WheelhouseError as error:
        module.fail_json(msg=f"The wheelhouse cannot be built: {error}")
    available = result.archive.exists()
    module.exit_json(
        changed=result.built or not available,
        content_id=result.content_id,
        archive=str(result.archive),
        available=available,
    )


if __name__ == "__main__":
    main()
