#!/usr/bin/python
"""Ansible module: put a configuration in force on a station, under the eyes of the health gate."""

from __future__ import annotations

DOCUMENTATION = r"""
module: edge_config_release
short_description: Release a station's configuration, watch the controller, put the old configuration back
description:
  - Writes C(config.yaml), C(override.yaml) and C(profiles/) as one release below C(directory)/releases,
    checks the merged result with the station's own package, switches the link C(current) in one step and
    reloads the controller (restarts it where the change needs that).
  - Watches until the controller tells that this configuration is in force and every device that answered
    before has given a fresh sample. When it does not, or ends, or runs into errors, the release before is
    put back, the reason is recorded on the station (C(/var/lib/stationkeeper/releases/config.jsonl)) and the
    module fails.
  - What is not given stays as it stands on the station. An edit of C(override.yaml) in place is kept.
  - Emergency-stop latch and orders lie elsewhere and are not touched.
version_added: "0.2.0"
author: Stationkeeper
options:
  directory:
    description: Directory of the controller's configuration.
    type: path
    default: /etc/bess_controller
  config:
    description: Text of C(config.yaml). Left out, the station's own stays.
    type: str
  override:
    description: Text of C(override.yaml). Left out, the station's own stays.
    type: str
  profiles:
    description: Texts of profile files by name. Left out, the station's own stay.
    type: dict
  devices:
    description: Names of the devices. Those that answered before must answer with the new configuration.
    type: list
    elements: str
    required: true
  watch_s:
    description: How long the controller must stay in charge, in seconds.
    type: float
    default: 30
  settle_s:
    description: How much longer it may take until every device has given a sample, in seconds.
    type: float
    default: 120
  keep:
    description: Number of releases that stay on the station.
    type: int
    default: 5
  group:
    description: Group that may read the files.
    type: str
    default: bess_controller
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
    description: Checks the merged configuration and says what would change.
    support: full
  diff_mode:
    description: Shows each file before and after.
    support: full
"""

EXAMPLES = r"""
- name: Configure the controller
  edge_config_release:
    config: "{{ lookup('ansible.builtin.template', 'config.yaml.j2') }}"
    devices: [WLCE-BESS-01]
"""

RETURN = r"""
release:
  description: The content id that is (in check mode, would be) in force.
  returned: success
  type: str
previous:
  description: The content id that was in force before, empty when there was none.
  returned: success
  type: str
evidence:
  description: Hash of the merged configuration, and how long the controller was watched with it.
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
from ansible.module_utils.stationkeeper.station import config_release, controlled, deploy, gate, trial


def _diff(before: config_release.Content | None, after: config_release.Content) -> list[dict[str, str]]:
    old, new = before.files() if before else {}, after.files()
    return [
        {
            "before_header": name,
            "after_header": name,
            "before": old.get(name, ""),
            "after": new.get(name, ""),
        }
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "default": "/etc/bess_controller"},
            "config": {"type": "str"},
            "override": {"type": "str"},
            "profiles": {"type": "dict"},
            "devices": {"type": "list", "elements": "str", "required": True},
            "watch_s": {"type": "float", "default": 30},
            "settle_s": {"type": "float", "default": 120},
            "keep": {"type": "int", "default": 5},
            "group": {"type": "str", "default": "bess_controller"},
            "unit": {"type": "str", "default": "bess_controller.service"},
            "metrics_url": {"type": "str", "default": "http://127.0.0.1:9105/metrics"},
            "run_id": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    station = deploy.Station(config=Path(params["directory"]))
    controller = controlled.Controller(
        params["unit"],
        params["metrics_url"],
        tuple(params["devices"]),
        gate.Times(params["watch_s"], params["settle_s"]),
        params["run_id"],
    )
    try:
        present = config_release.read(station.config)
        wanted = config_release.complete(
            station.config, present, params["config"], params["override"], params["profiles"]
        )
        done = deploy.deploy_config(
            station,
            wanted,
            controller,
            group=params["group"],
            keep=params["keep"],
            dry_run=module.check_mode,
        )
    except controlled.SwitchError as error:
        module.fail_json(**error.as_dict())
    except (config_release.ConfigReleaseError, trial.TrialError, OSError) as error:
        module.fail_json(msg=f"The configuration was not released, the one in force is untouched: {error}")
    module.exit_json(
        changed=done.changed,
        release=done.after,
        previous=done.before,
        evidence=done.evidence,
        diff=_diff(present, wanted),
    )


if __name__ == "__main__":
    main()
