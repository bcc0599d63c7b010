"""Watch a runbook's hosts, so that its closing play can tell unreachable, failed and silent hosts apart."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from ansible.plugins.callback import CallbackBase

watch: Any = None
# Without the package `runbook_open` refuses the run with instructions; a callback cannot.
with contextlib.suppress(ImportError):
    from stationkeeper.runbooks import watch

DOCUMENTATION = r"""
name: runbook_watch
type: aggregate
short_description: Watch the hosts of a runbook
description:
  - Remembers which hosts became unreachable or failed in a task, for the role C(runbook) to count.
  - Ends the run with exit code 2 when no host matches the play that opens a runbook, which happens with
    a C(--limit) that leaves out localhost. Ansible itself would call such a run successful.
  - Ends a run with exit code 2 that did not close its runbook although no task failed (C(--tags)).
  - Loads by itself because it lies beside the playbooks.
"""


class CallbackModule(CallbackBase):
    """Fills `stationkeeper.runbooks.watch`."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "runbook_watch"
    CALLBACK_NEEDS_ENABLED = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._opens_runbook = False
        self._is_runbook = False
        self._done: set[str] = set()

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """A new run begins."""
        self._is_runbook = False
        self._done.clear()
        if watch is not None:
            watch.start()

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Remember whether this is the play that opens a runbook."""
        self._opens_runbook = "runbook" in (play.vars or {})
        self._is_runbook = self._is_runbook or self._opens_runbook

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Refuse a run whose runbook would never be opened."""
        if not self._opens_runbook:
            return
        self._display.error(
            "Refused: --limit leaves out localhost, so the runbook would not be opened and nothing would "
            "be done. Leave --limit away and choose the hosts with -e target=<host, group or pattern>."
        )
        # An exception would only become a warning here, and the run would end with exit code 0.
        sys.exit(2)

    def v2_runner_on_ok(self, result: Any) -> None:
        """Remember that the runbook was opened and closed."""
        if result.task.action in {"runbook_open", "runbook_close"}:
            self._done.add(result.task.action)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Say when a runbook was not closed; do not let such a run pass for a success."""
        if not self._is_runbook or "runbook_close" in self._done:
            return
        if "runbook_open" in self._done:
            self._display.error(
                "This runbook was opened but not closed, because every host of a play failed, or because "
                "of --tags or --start-at-task. What happened on its targets is in the output above; the "
                "pending ledger was not written. Locks of this run are taken over at once by the next run "
                "from this control node, and run out by themselves for others."
            )
        if not stats.failures and not stats.dark:
            self._display.error("Refused: the runbook did not run as a whole, so this is no success.")
            sys.exit(2)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """A host did not answer."""
        if watch is not None:
            watch.saw_unreachable(result.host.get_name(), result.task.get_name(), _message(result))

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A task failed."""
        if watch is not None and not ignore_errors:
            watch.saw_failed(result.host.get_name(), result.task.get_name(), _message(result))


def _message(result: Any) -> str:
    return " ".join(str(result.result.get("msg", "no message")).split())[:300]
