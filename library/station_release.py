#!/usr/bin/python
"""Ansible module: put a package version in force on a station, under the eyes of the health gate."""

from __future__ import annotations

DOCUMENTATION = r"""
module: station_release
short_description: Install the package on a station, watch the controller, put the old version back
description:
  - Makes a virtual environment of its own for each content id below C(root)/releases and switches the link
    C(root)/venv to it in one step, without internet. The previous release is kept.
  - The new version must accept the station's configuration before anything is switched.
  - Where a controller runs, it is restarted and watched. When it ends, loses a device that answered before or
    runs into errors, the release before is put back, the controller is restarted from it and watched, the
    reason is recorded on the station (C(/var/lib/stationkeeper/releases/package.jsonl)) and the module fails.
  - A release whose watching was interrupted is watched again, or put back by the controller's own unit.
  - Needs nothing on the station but python3.
version_added: "0.2.0"
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
  devices:
    description: Names of the devices. Those that answered before must answer with the new version.
    type: list
    elements: str
    default: []
  watch_s:
    description: How long the controller must stay in charge, in seconds.
    type: float
    default: 45
  settle_s:
    description: How much longer it may take until every device has given a sample, in seconds.
    type: float
    default: 120
  unit:
    description: The controller's unit.
    type: str
    default: bess_controller.service
  metrics_url:
    description: Where the controller serves its metrics.
    type: str
    default: http://127.0.0.1:9105/metrics
  run_id:
    description: The run that asks for it, for the record.
    type: str
    default: ""
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
  station_release:
    archive: /opt/stationkeeper/wheelhouse.tar
    content_id: 1ce413038db9
    devices: [WLCE-BESS-01]
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
evidence:
  description: How long the controller was watched, and the links before and after.
  returned: success
  type: dict
rolled_back:
  description: Whether the release before was put back.
  returned: failure
  type: bool
reason:
  description: What was wrong with the release.
  returned: failure
  type: str
in_charge:
  description: Whether the controller is in charge with the release that was put back.
  returned: failure
  type: bool
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.stationkeeper.station import controlled, deploy, gate, release, trial


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "default": "/opt/stationkeeper"},
            "archive": {"type": "path", "required": True},
            "content_id": {"type": "str", "required": True},
            "devices": {"type": "list", "elements": "str", "default": []},
            "watch_s": {"type": "float", "default": 45},
            "settle_s": {"type": "float", "default": 120},
            "unit": {"type": "str", "default": "bess_controller.service"},
            "metrics_url": {"type": "str", "default": "http://127.0.0.1:9105/metrics"},
            "run_id": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    controller = controlled.Controller(
        params["unit"],
        params["metrics_url"],
        tuple(params["devices"]),
        gate.Times(params["watch_s"], params["settle_s"]),
        params["run_id"],
    )
    station = deploy.Station(package=Path(params["root"]))
    try:
        done = deploy.deploy_package(
            station,
            Path(params["archive"]),
            params["content_id"],
            controller,
            dry_run=module.check_mode,
        )
    except controlled.SwitchError as error:
        module.fail_json(**error.as_dict())
    except (release.ReleaseError, trial.TrialError, OSError) as error:
        module.fail_json(msg=f"The package was not installed, the release in force is untouched: {error}")
    module.exit_json(
        changed=done.changed,
        content_id=done.after,
        previous=done.before,
        evidence=done.evidence,
        diff={"before": f"{done.before}\n", "after": f"{done.after}\n"},
    )


if __name__ == "__main__":
    main()
