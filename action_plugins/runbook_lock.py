"""Take a runbook's lock on a host; take over the lock of a run that died on this control node."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase

from stationkeeper.runbooks.process import owner_state


class ActionModule(ActionBase):
    """Runs the module of the same name; see there for the documentation."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Try once; if the holder is dead, and this node can know it, try again naming that very run."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        arguments.pop("orphan_of", None)
        attempt = self._execute_module(
            module_name="runbook_lock", module_args=arguments, task_vars=task_vars, wrap_async=False
        )
        holder = attempt.get("holder")
        if attempt.get("failed") and holder and owner_state(holder.get("owner") or {}) == "dead":
            arguments["orphan_of"] = holder["run_id"]
            attempt = self._execute_module(
                module_name="runbook_lock", module_args=arguments, task_vars=task_vars, wrap_async=False
            )
        result.update(attempt)
        return result
