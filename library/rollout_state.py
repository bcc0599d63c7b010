#!/usr/bin/python
"""Ansible module: plan a staged rollout, open its gates, and keep its state on the control node."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rollout_state
short_description: Plan the waves of a rollout, ask whether a wave may start, record what became of a host
description:
  - Runs on the control node. The state is one file for each rollout, so a run that was stopped or killed is
    continued by the same call.
version_added: "0.2.0"
author: Stationkeeper
options:
  directory:
    description: Directory of the rollouts' states.
    type: path
    required: true
  state:
    description:
      - V(opened) begins the rollout, or continues the unfinished one of this runbook, content and targets.
      - V(asked) tells whether wave O(wave) may start; every host before it must be proven in this run.
      - V(recorded) adds the result of O(host).
    type: str
    choices: [opened, asked, recorded]
    required: true
  run_id:
    description: The run that works on the rollout.
    type: str
    required: true
  id:
    description: The rollout, as V(opened) returned it. For V(asked) and V(recorded).
    type: str
  runbook:
    description: Name of the runbook. For V(opened).
    type: str
  what:
    description: What is rolled out. For V(opened).
    type: dict
  targets:
    description: The intended hosts. For V(opened).
    type: list
    elements: str
  reachable:
    description: Those that answer. For V(opened).
    type: list
    elements: str
  canary:
    description: The host that goes first and alone. Left out, the canary so far or the first host.
    type: str
  wave_size:
    description: Hosts of each wave after the canary.
    type: int
    default: 5
  wave:
    description: Number of the wave; the canary is 0. For V(asked).
    type: int
  host:
    description: The host. For V(recorded).
    type: str
  result:
    description: Its result, with status and message. For V(recorded).
    type: dict
attributes:
  check_mode:
    description: Writes nothing; every gate is open, since nothing has been proven.
    support: full
  diff_mode:
    description: The state is book-keeping of the control node.
    support: none
"""

EXAMPLES = r"""
- name: Plan the waves
  rollout_state:
    state: opened
    directory: /srv/stationkeeper/.state/rollouts
    run_id: 20261121T081500-1
    runbook: edge_tune
    what: {controller: {poll_interval: 30s}}
    targets: [wlce, hmce, lfce]
    reachable: [wlce, hmce, lfce]
    wave_size: 2
"""

RETURN = r"""
id:
  description: The rollout's id, which names its file.
  returned: success
  type: str
waves:
  description: Hosts of each wave, the canary first.
  returned: success
  type: list
  elements: list
continued:
  description: The runs that worked on it before. Empty when it begins now.
  returned: success
  type: list
  elements: str
objections:
  description: Why the wave must not start. Empty when it may.
  returned: O(state=asked)
  type: list
  elements: str
rollout_state:
  description: V(done), V(stopped) or V(unfinished).
  returned: success
  type: str
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

try:
    from stationkeeper.rollout import state as rollouts
    from stationkeeper.rollout import waves
except ImportError:
    rollouts = None  # type: ignore[assignment]  # reported below, with how to install it


def _open(params: dict[str, Any], *, dry_run: bool) -> Any:
    fresh = rollouts.Rollout(
        rollouts.identity(params["runbook"], params["what"], params["targets"]),
        params["runbook"],
        params["what"],
        params["targets"],
        [params["reachable"]],
        [params["run_id"]],
        datetime.now(UTC).isoformat(timespec="seconds"),
    )
    file = rollouts.RolloutFile(Path(params["directory"]), fresh.id)
    return file.open(fresh, params["wave_size"], params["canary"], dry_run=dry_run)


def _result(rollout: Any, **more: Any) -> dict[str, Any]:
    return {
        "changed": False,
        "id": rollout.id,
        "waves": rollout.waves,
        "continued": rollout.runs[:-1],
        "rollout_state": rollout.state,
        **more,
    }


def _work(params: dict[str, Any], *, dry_run: bool) -> dict[str, Any]:
    if params["state"] == "opened":
        return _result(_open(params, dry_run=dry_run))
    if dry_run:
        return {"changed": False, "objections": []}
    file = rollouts.RolloutFile(Path(params["directory"]), params["id"])
    if params["state"] == "recorded":
        host_result = rollouts.HostResult(
            str(params["result"].get("status", "unknown")),
            str(params["result"].get("message", "")),
            params["run_id"],
            datetime.now(UTC).isoformat(timespec="seconds"),
        )
        return _result(file.record(params["host"], host_result))
    rollout = file.read()
    if rollout is None:
        raise waves.RolloutError(f"{file.path}: there is no such rollout")
    held = waves.objections(rollout.waves, params["wave"], rollout.results(params["run_id"]))
    return _result(rollout, objections=held)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["opened", "asked", "recorded"], "required": True},
            "run_id": {"type": "str", "required": True},
            "id": {"type": "str"},
            "runbook": {"type": "str"},
            "what": {"type": "dict"},
            "targets": {"type": "list", "elements": "str"},
            "reachable": {"type": "list", "elements": "str"},
            "canary": {"type": "str"},
            "wave_size": {"type": "int", "default": 5},
            "wave": {"type": "int"},
            "host": {"type": "str"},
            "result": {"type": "dict"},
        },
        required_if=[
            ("state", "opened", ["runbook", "what", "targets", "reachable"]),
            ("state", "asked", ["id", "wave"]),
            ("state", "recorded", ["id", "host", "result"]),
        ],
        supports_check_mode=True,
    )
    if rollouts is None:
        module.fail_json(msg="the stationkeeper package is missing on the control node: run `make setup`")
    try:
        module.exit_json(**_work(module.params, dry_run=module.check_mode))
    except (waves.RolloutError, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
