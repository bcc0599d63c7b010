"""Ansible callback: write every run to the audit chain."""

from __future__ import annotations

import functools
import os
import platform
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible import context
from ansible.plugins.callback import CallbackBase
from ansible.release import __version__ as ansible_version

if TYPE_CHECKING:
    from ansible.executor.stats import AggregateStats
    from ansible.executor.task_result import CallbackTaskResult
    from ansible.inventory.host import Host
    from ansible.playbook import Playbook
    from ansible.playbook.play import Play
    from ansible.playbook.task import Task

DOCUMENTATION = """
name: audit
type: aggregate
short_description: record runs in a signed, chained audit log
version_added: 0.1.0
description:
  - Writes START, one CHANGE for each changed task and host, RESULT for failed and unreachable ones, and END
    to the audit chain of this control node, and copies the chain to the table C(ops.audit) afterwards.
  - Sets E(STATIONKEEPER_RUN_ID) before the first task, and E(STATIONKEEPER_AUDIT_STATE) to C(recorded) or
    C(failed).
  - Masks values of C(no_log) options, of variables named like secrets, and text that looks like a credential.
    Loop items are never recorded, only the invocation that the module itself has redacted.
requirements:
  - enable in configuration (C(callbacks_enabled = audit))
  - the Python package C(stationkeeper) and C(cryptography) on the control node
options: {}
"""

_REPOSITORY = Path(__file__).resolve().parents[2]
_IMPORT_PROBLEM = ""
try:
    import stationkeeper  # noqa: F401 (only whether it is there)
except ImportError:
    # AWX runs the checkout itself, without an installed package.
    sys.path.insert(0, str(_REPOSITORY / "src"))
try:
    from stationkeeper.audit import identity
    from stationkeeper.audit.paths import HEALTH_VARIABLE, RUN_VARIABLE, AuditPaths
    from stationkeeper.audit.recorder import Recorder
    from stationkeeper.audit.redact import Redactor, secret_values
except ImportError as error:
    HEALTH_VARIABLE, RUN_VARIABLE = "STATIONKEEPER_AUDIT_STATE", "STATIONKEEPER_RUN_ID"
    _IMPORT_PROBLEM = str(error)

# Variables of many hosts cost time; beyond this, those of one host of a play must do.
_MAX_HOSTS_FOR_SECRETS = 50
_MAX_ITEMS = 50
# What a module says about what it did, apart from its arguments.
_EVIDENCE = (
    "dest",
    "path",
    "name",
    "checksum",
    "mode",
    "owner",
    "group",
    "size",
    "state",
    "rc",
    "status",
)


def _safely(method: Callable[..., None]) -> Callable[..., None]:
    """An audit that cannot be written must not break the play; it says so once instead."""

    @functools.wraps(method)
    def wrapper(self: CallbackModule, *arguments: Any, **keywords: Any) -> None:
        try:
            method(self, *arguments, **keywords)
        except Exception as error:
            self.warn_once(f"audit: {method.__name__} failed: {type(error).__name__}")

    return wrapper


class CallbackModule(CallbackBase):
    """The callback plugin."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "audit"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self._recorder: Recorder | None = None
        self._redactor: Redactor | None = None
        self._play: Play | None = None
        self._learned: set[str] = set()
        self._empty_plays: list[str] = []
        self._counts = {"changes": 0, "failures": 0, "unreachable": 0}
        self._warned: set[str] = set()
        self._started = time.monotonic()
        self._check = False

    def warn_once(self, message: str) -> None:
        """Show a warning, each text only once."""
        if message not in self._warned:
            self._warned.add(message)
            self._display.warning(message)

    def v2_playbook_on_start(self, playbook: Playbook) -> None:
        """Record START, or say that this run is not recorded."""
        if self._recorder is not None:
            # One command may run several playbooks; they are one run.
            self._note("PLAYBOOK", {"playbook": _playbook_name(playbook)})
            return
        parent = os.environ.get(RUN_VARIABLE)
        run_id = str(uuid.uuid4())
        os.environ[RUN_VARIABLE] = run_id
        os.environ[HEALTH_VARIABLE] = "failed"
        if _IMPORT_PROBLEM:
            self.warn_once(f"audit: this run is not recorded: {_IMPORT_PROBLEM}")
            return
        try:
            self._redactor = Redactor()
            self._recorder = Recorder(run_id, AuditPaths.default(), self.warn_once)
            if self._recorder.start(self._describe(playbook, parent)):
                os.environ[HEALTH_VARIABLE] = "recorded"
            if self._recorder.aborted:
                self.warn_once(f"audit: recorded as ABORTED: {', '.join(self._recorder.aborted)}")
        except Exception as error:
            self.warn_once(f"audit: this run is not recorded: {type(error).__name__}")

    @_safely
    def v2_playbook_on_play_start(self, play: Play) -> None:
        """Remember the play, for its name and its variables."""
        self._play = play
        self._learned.clear()

    @_safely
    def v2_playbook_on_no_hosts_matched(self) -> None:
        """Remember a play that did nothing, since Ansible calls it a success."""
        self._empty_plays.append(self._play.get_name() if self._play else "")

    @_safely
    def v2_runner_on_start(self, host: Host, task: Task) -> None:
        """Learn the secrets among the variables of a host before its first result of a play."""
        name = host.get_name()
        if name in self._learned or len(self._learned) >= _MAX_HOSTS_FOR_SECRETS or self._redactor is None:
            return
        self._learned.add(name)
        manager = self._play.get_variable_manager() if self._play else None
        if manager is not None:
            self._redactor.learn(
                secret_values(manager.get_vars(play=self._play, host=host, include_hostvars=False))
            )

    @_safely
    def v2_runner_on_ok(self, result: CallbackTaskResult) -> None:
        """Record a change."""
        if result.is_changed():
            self._counts["changes"] += 1
            self._note("CHANGE", self._outline(result, "changed"))

    @_safely
    def v2_runner_on_failed(self, result: CallbackTaskResult, ignore_errors: bool = False) -> None:
        """Record a failure."""
        self._counts["failures"] += 1
        self._note("RESULT", {**self._outline(result, "failed"), "ignored": bool(ignore_errors)})

    @_safely
    def v2_runner_on_unreachable(self, result: CallbackTaskResult) -> None:
        """Record a host that could not be reached."""
        self._counts["unreachable"] += 1
        self._note("RESULT", self._outline(result, "unreachable"))

    @_safely
    def v2_playbook_on_stats(self, stats: AggregateStats) -> None:
        """Record END with the totals, then copy the chain to the database."""
        if self._recorder is None:
            return
        hosts = {host: stats.summarize(host) for host in sorted(stats.processed)}
        totals = {
            name: sum(host[name] for host in hosts.values())
            for name in ("ok", "changed", "failures", "unreachable", "skipped", "rescued", "ignored")
        }
        outcome = "ok"
        if totals["failures"]:
            outcome = "failed"
        elif totals["unreachable"]:
            outcome = "unreachable"
        elif not hosts:
            outcome = "no_hosts"
        self._recorder.end(
            {
                "mode": self._mode(self._check),
                "outcome": outcome,
                "hosts": hosts,
                "totals": totals,
                "recorded": self._counts,
                "plays_without_hosts": self._empty_plays,
                "duration_ms": int((time.monotonic() - self._started) * 1000),
            }
        )
        # A check run changes nothing, not even a row; its records go with the next real run.
        if not self._check:
            self._recorder.ship(limit_s=3.0)

    def _note(self, event: str, data: Mapping[str, Any]) -> None:
        if self._recorder is not None and self._recorder.note(event, data):
            os.environ[HEALTH_VARIABLE] = "recorded"

    def _describe(self, playbook: Playbook, parent: str | None) -> dict[str, Any]:
        assert self._redactor is not None
        arguments = context.CLIARGS
        plays = playbook.get_plays()
        manager = plays[0].get_variable_manager() if plays else None
        extra_vars = dict(manager.extra_vars) if manager else {}
        self._redactor.learn(secret_values(extra_vars))
        self._check = bool(arguments.get("check"))
        runbook = plays[0].vars.get("runbook") if plays else None
        runbook = runbook if isinstance(runbook, Mapping) else {}
        return {
            "who": identity.who(os.environ, extra_vars),
            "clock": identity.clock(),
            "process": identity.process_identity(),
            "parent_run_id": parent,
            **identity.commit(_REPOSITORY),
            "repository": str(_REPOSITORY),
            "playbook": _playbook_name(playbook),
            "runbook": {
                name: runbook[name] for name in ("title", "area", "risk", "owner") if name in runbook
            },
            "plays": len(plays),
            "mode": self._mode(self._check),
            "diff": bool(arguments.get("diff")),
            "tags": list(arguments.get("tags") or ()),
            "skip_tags": list(arguments.get("skip_tags") or ()),
            "start_at_task": arguments.get("start_at_task"),
            "limit": arguments.get("subset"),
            "inventory": [self._redactor.text(str(source)) for source in arguments.get("inventory") or ()],
            "extra_vars": self._redactor.value(extra_vars),
            "reason": self._redactor.value(extra_vars.get("reason")),
            "ticket": self._redactor.value(extra_vars.get("ticket")),
            "awx": {
                name: self._redactor.value(value)
                for name, value in extra_vars.items()
                if name.startswith(("awx_", "tower_"))
            },
            "versions": {
                "ansible": ansible_version,
                "python": platform.python_version(),
            },
        }

    def _outline(self, result: CallbackTaskResult, status: str) -> dict[str, Any]:
        assert self._redactor is not None
        # Not `task_fields`, which 2.21 deprecates: the task carries the same, templated, values.
        task, content = result.task, result.result
        data: dict[str, Any] = {
            "mode": self._mode(task.check_mode if isinstance(task.check_mode, bool) else self._check),
            "status": status,
            "host": result.host.get_name(),
            "play": self._play.get_name() if self._play else None,
            "task": self._redactor.text(str(result.task_name), 300),
            "path": _relative(task.get_path()),
            "module": str(task.action),
        }
        if task.delegate_to:
            data["delegated_to"] = self._redactor.text(str(task.delegate_to), 300)
        if _is_hidden(content) or task.no_log:
            return {**data, "no_log": True}
        items = content.get("results")
        if isinstance(items, list) and items and all(isinstance(item, Mapping) for item in items):
            return {**data, **self._loop(items, status)}
        return {**data, **self._details(content, status)}

    def _loop(self, items: list[Mapping[str, Any]], status: str) -> dict[str, Any]:
        """Only the items that matter, by their index: the item itself may be a secret."""
        wanted = [
            (index, item)
            for index, item in enumerate(items)
            if item.get("changed") or item.get("failed") or item.get("unreachable")
        ]
        shown = [
            {"index": index, "no_log": True}
            if _is_hidden(item)
            else {"index": index, **self._details(item, "failed" if item.get("failed") else status)}
            for index, item in wanted[:_MAX_ITEMS]
        ]
        return {"items": shown, "items_total": len(items), "items_concerned": len(wanted)}

    def _details(self, content: Mapping[str, Any], status: str) -> dict[str, Any]:
        assert self._redactor is not None
        # Never the arguments of the task: they hold the raw value of no_log options.
        invocation = content.get("invocation")
        arguments = invocation.get("module_args") if isinstance(invocation, Mapping) else None
        details: dict[str, Any] = {}
        if isinstance(arguments, Mapping):
            given = {name: value for name, value in arguments.items() if value is not None}
            details["args"] = self._redactor.value(given)
        if content.get("diff"):
            details["diff"] = self._redactor.diff(content["diff"])
        evidence = {
            name: content[name] for name in _EVIDENCE if isinstance(content.get(name), str | int | bool)
        }
        if evidence:
            details["result"] = self._redactor.value(evidence)
        if status != "changed" and content.get("msg") is not None:
            details["message"] = self._redactor.value(content["msg"])
        return details

    @staticmethod
    def _mode(check: bool) -> str:
        return "check" if check else "real"


def _is_hidden(content: Mapping[str, Any]) -> bool:
    return bool(content.get("_ansible_no_log") or "censored" in content)


def _playbook_name(playbook: Playbook) -> str:
    return _relative(str(playbook._file_name))


def _relative(path: str | None) -> str:
    """A path within the repository without the part that differs from clone to clone."""
    return (path or "").removeprefix(f"{_REPOSITORY}{os.sep}")
