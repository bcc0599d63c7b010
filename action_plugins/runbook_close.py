"""Close a runbook: add up what happened on every target. Runs on the control node, changes nothing."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase

from stationkeeper.runbooks import closing, watch


class ActionModule(ActionBase):
    """See library/runbook_close.py for the documentation."""

    BYPASS_HOST_LOOP = True
    _requires_connection = False
    _supports_check_mode = True
    _VALID_ARGS = frozenset()

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the result sets, the summary and what the pending ledger must learn."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        hostvars = variables["hostvars"]
        run = _plain(hostvars["localhost"].get("runbook_run"))
        if run is None:
            raise AnsibleActionFail(
                "This run was never opened: include role `runbook`, tasks_from open, first."
            )
        hosts = {str(host) for members in variables["groups"].values() for host in members}
        results = {
            host: _plain(hostvars[host]["runbook_result"])
            for host in sorted(hosts | set(run["targets"]))
            if "runbook_result" in hostvars[host]
        }
        report = closing.add_up(
            run, results, watch.observed(), required=run["required"], safety=run["risk"] == "safety"
        )
        entries = pending_entries(run, report, results) if run["risk"] != "read" else []
        waiting = {entry["host"] for entry in entries}
        note = (
            f"Pending until {entries[0]['expires_at']}: {', '.join(entry['host'] for entry in entries)}. "
            f"Repeat for them with -e runbook_limit_pending=true."
            if entries and not run["check_mode"]
            else ""
        )
        result.update(
            changed=False,
            succeeded=report.succeeded,
            problems=report.problems,
            sets={name: report.hosts(name) for name in closing.SETS},
            summary=closing.summary(run, report, pending_note=note),
            pending=entries,
            done=[host for host in (*report.hosts("ok"), *report.hosts("changed")) if host not in waiting],
        )
        return result


def pending_entries(
    run: dict[str, Any], report: closing.Report, results: dict[str, Any]
) -> list[dict[str, Any]]:
    """Ledger entries for hosts that could not be reached or whose result says what is `pending`."""
    why = {row.host: row.message for row in report.rows if row.set == "unreachable"}
    why |= {host: result["pending"] for host, result in results.items() if result.get("pending")}
    now = datetime.now(UTC)
    return [
        {
            "host": host,
            "why": text,
            "reason": run["reason"],
            "ticket": run["ticket"],
            "run_id": run["id"],
            "inputs": run["inputs"],
            "since": now.isoformat(timespec="seconds"),
            "expires_at": (now + timedelta(hours=run["pending_expiry_hours"])).isoformat(timespec="seconds"),
        }
        for host, text in why.items()
    ]


def _plain(value: Any) -> Any:
    """Ansible's tagged and lazy values as plain Python ones."""
    return None if value is None else json.loads(json.dumps(value))
