"""Open a runbook: validate, resolve and probe the targets, or refuse. Runs on the control node."""

from __future__ import annotations

import json
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible import context
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.inventory.manager import InventoryManager
from ansible.plugins.action import ActionBase
from ansible.utils.vars import load_extra_vars

try:
    from stationkeeper.runbooks import opening, pending, probe, process, state
    from stationkeeper.runbooks.description import Description, DescriptionError, parse_description
    from stationkeeper.runbooks.inputs import InputError, Inputs, validate_inputs
except ImportError as error:
    PACKAGE_ERROR: str | None = (
        f"The Python package `stationkeeper` is missing on the control node ({error}). "
        "Run `make setup`, or `pip install -e .` in the environment that Ansible runs in."
    )
else:
    PACKAGE_ERROR = None

#: Connections whose reachability an ssh banner says something about.
_SSH_CONNECTIONS = frozenset({"ssh", "smart", "ansible.builtin.ssh", "paramiko", "paramiko_ssh"})


class ActionModule(ActionBase):
    """See library/runbook_open.py for the documentation."""

    BYPASS_HOST_LOOP = True
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset({"timeout_s"})

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the run's facts, or fail with the reason for the refusal."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        if PACKAGE_ERROR is not None:
            raise AnsibleActionFail(PACKAGE_ERROR)
        _, arguments = self.validate_argument_spec({"timeout_s": {"type": "float", "default": 3.0}})
        try:
            run = self._open(variables, float(arguments["timeout_s"]))
        except (DescriptionError, InputError, opening.RefusedError, pending.LedgerError) as error:
            raise AnsibleActionFail(f"Refused: {error}") from error
        result.update(changed=False, run=run)
        return result

    def _open(self, variables: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        name = Path(self._task.get_play().get_path().rpartition(":")[0]).stem
        description = parse_description(name, _plain(variables.get("runbook")))
        check_mode = bool(self._task.check_mode)
        inputs = validate_inputs(
            description, _plain(dict(load_extra_vars(self._loader))), check_mode=check_mode
        )
        run_id = os.environ.get("STATIONKEEPER_RUN_ID", "")
        if not check_mode:
            _require_audit(description, run_id)
        targets = self._targets(name, description, inputs, variables)
        knocks = (
            probe.probe_all(_endpoints(targets, variables["hostvars"]), timeout_s=timeout_s)
            if description.probe
            else {}
        )
        parts = opening.partition(description, targets, knocks)
        return {
            "id": run_id or str(uuid.uuid4()),
            "name": name,
            "title": description.title,
            "risk": description.risk,
            "check_mode": check_mode,
            "inputs": inputs.values,
            "target": inputs.target or "",
            "reason": inputs.reason or "",
            "ticket": inputs.ticket or "",
            "awx": inputs.awx,
            "targets": parts.targets,
            "reachable": parts.reachable,
            "unreachable": parts.unreachable,
            "required": opening.required_count(description, len(parts.targets)),
            "lock": description.lock.model_dump(),
            "pending_expiry_hours": description.pending_expiry_hours,
            # Workers are forked from the process that is the run, so the parent is the run.
            "owner": process.describe_process(os.getppid()),
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "state_directory": str(state.state_directory()),
        }

    def _targets(
        self, name: str, description: Description, inputs: Inputs, variables: dict[str, Any]
    ) -> list[str]:
        groups = {str(group): [str(host) for host in hosts] for group, hosts in variables["groups"].items()}
        due = None
        if inputs.limit_pending:
            ledger = pending.Ledger(state.state_directory() / "pending", name)
            due = ledger.due(datetime.now(UTC))
        targets = opening.resolve_targets(
            description, inputs, groups, lambda pattern: self._match(groups, pattern), due
        )
        limit = context.CLIARGS.get("subset")
        if limit:
            opening.check_limit(targets, self._match(groups, str(limit)), str(limit))
        return targets

    def _match(self, groups: dict[str, list[str]], pattern: str) -> list[str]:
        """Resolve a host pattern over the whole inventory, as Ansible does."""
        manager = InventoryManager(self._loader, parse=False)
        for group, hosts in groups.items():
            manager.add_group(group)
            for host in hosts:
                manager.add_host(host, group=group)
        try:
            return [host.name for host in manager.get_hosts(pattern=pattern)]
        except AnsibleError as error:
            raise opening.RefusedError(f"Target `{pattern}` is no host pattern: {error}") from error


def _endpoints(targets: list[str], hostvars: Any) -> list[probe.Endpoint]:
    endpoints = []
    for host in targets:
        variables = hostvars[host]
        if str(variables.get("ansible_connection", "ssh")) in _SSH_CONNECTIONS:
            address = str(variables.get("ansible_host", host))
            endpoints.append(probe.Endpoint(host, address, int(variables.get("ansible_port", 22))))
    return endpoints


def _require_audit(description: Description, run_id: str) -> None:
    # Towards safety nothing waits for the audit: the callback spools the record.
    if not description.acts or description.risk == "safety":
        return
    try:
        from stationkeeper.audit.chain import run_is_recorded
    except ImportError as error:
        raise opening.RefusedError(f"The audit trail is not available ({error}).") from error
    if not run_id or not run_is_recorded(run_id):
        raise opening.RefusedError(
            "The audit trail holds no START of this run, and a runbook of risk "
            f"`{description.risk}` does not act without one. Enable the callback `audit` "
            "(callbacks_enabled in ansible.cfg) and see that its directory is writable."
        )


def _plain(value: Any) -> Any:
    """Ansible's tagged and lazy values as plain Python ones."""
    return None if value is None else json.loads(json.dumps(value))
