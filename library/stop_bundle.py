#!/usr/bin/python
"""Ansible module: the bundle with which an emergency stop needs neither inventory nor database."""

from __future__ import annotations

DOCUMENTATION = r"""
module: stop_bundle
short_description: Write the bundle from which `stationkeeper stop` works
description:
  - Writes addresses, profiles, contacts and ssh settings of all stations into one file on the control node.
    With it C(stationkeeper stop) works without Ansible, without inventory plugins and without the database.
  - Holds no secret; of the ssh key only its path.
  - Refuses stations that are declared wrongly and profiles that do not exist, before the file is touched.
version_added: "0.1.0"
author: Stationkeeper
options:
  path:
    description: The bundle, by convention C(stop_bundle/<system>.json) in the state directory.
    type: path
    required: true
  system:
    description: Name of the system.
    type: str
    required: true
  stations:
    description: The stations by name, as the filter P(edge_stop_bundle#filter) returns them.
    type: dict
    required: true
  groups:
    description: Stations by group name, so that a target may be a group. The groups of a run are left out.
    type: dict
    default: {}
  profile_path:
    description: Directories searched for profiles before the built-in ones.
    type: list
    elements: path
    default: []
requirements: [stationkeeper]
attributes:
  check_mode:
    description: Reports whether the file would change and writes nothing.
    support: full
  diff_mode:
    description: Shows the bundle before and after, each profile as a digest.
    support: full
"""

EXAMPLES = r"""
- name: Write the stop bundle
  stop_bundle:
    path: "{{ stationkeeper_state }}/stop_bundle/{{ stationkeeper_system }}.json"
    system: "{{ stationkeeper_system }}"
    stations: "{{ hostvars | edge_stop_bundle(groups['stations']) }}"
    groups: "{{ groups }}"
"""

RETURN = r"""
path:
  description: The bundle's file.
  returned: success
  type: str
stations:
  description: Stations that it holds.
  returned: success
  type: list
  elements: str
"""

from datetime import UTC, datetime
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

try:
    from stationkeeper.stopping import bundle as bundles
except ImportError:
    bundles = None  # type: ignore[assignment]  # reported below, with how to install it


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "system": {"type": "str", "required": True},
            "stations": {"type": "dict", "required": True},
            "groups": {"type": "dict", "default": {}},
            "profile_path": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    if bundles is None:
        module.fail_json(msg="the stationkeeper package is missing on the control node: run `make setup`")
    params = module.params
    now = datetime.now(UTC).isoformat(timespec="seconds")
    # Only groups with stations in them can be a target of a stop.
    groups = {
        name: [host for host in members if host in params["stations"]]
        for name, members in params["groups"].items()
    }
    # A run's own groups (runbook_targets) are of this run only.
    groups = {
        name: members
        for name, members in groups.items()
        if members and name != "all" and not name.startswith("runbook_")
    }
    try:
        bundle = bundles.build(params["system"], params["stations"], groups, params["profile_path"], now)
        changed, before = bundles.write_bundle(Path(params["path"]), bundle, dry_run=module.check_mode)
    except bundles.BundleError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{params['path']}: {error.strerror}")
    after = bundle.model_dump_json() if changed else before
    module.exit_json(
        changed=changed,
        path=params["path"],
        stations=list(bundle.stations),
        diff={"before": bundles.outline(before), "after": bundles.outline(after)},
    )


if __name__ == "__main__":
    main()
