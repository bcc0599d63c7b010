"""Rules for every runbook."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from rules.source import LINE, Task, bare, play_tasks, read
from rules.tasks import task_problems
from stationkeeper.runbooks.catalogue import Runbook, read_runbook
from stationkeeper.runbooks.description import DescriptionError

_NAME = re.compile(r"^[a-z]+(_[a-z0-9]+)+$")
_TARGET_GROUPS = frozenset({"runbook_targets", "runbook_unreachable"})

#: Keywords of a play that break the contract, and why.
_FORBIDDEN = {
    "any_errors_fatal": "the closing play would never run",
    "max_fail_percentage": "it does not see unreachable hosts",
    "serial": "a dead first batch keeps healthy hosts from their turn",
    "vars_prompt": "nobody answers prompts under AWX",
}


def runbook_problems(root: Path, path: Path, alerts: set[str], own_modules: set[str]) -> list[str]:
    """Every breach of one runbook."""
    where = f"playbooks/{path.name}"
    problems = []
    if not _NAME.match(path.stem):
        problems.append(f"{where}: the name must be <area>_<verb>, in lower case")
    try:
        runbook = read_runbook(path)
    except DescriptionError as error:
        return [*problems, str(error)]
    plays = read(path)
    tasks = [task for play in plays for task in play_tasks(path, play)]
    return [
        *problems,
        *frame_problems(where, path, plays),
        *middle_problems(where, path, plays[1:-1]),
        *lock_problems(where, path, runbook, plays[1:-1]),
        *task_problems(root, tasks, own_modules),
        *alert_problems(where, runbook, alerts),
    ]


def frame_problems(where: str, path: Path, plays: list[dict[str, Any]]) -> list[str]:
    """The first play opens on localhost, the last one closes, and both do nothing else first."""
    problems = []
    for play in plays:
        problems += [
            f"{where}:{play[LINE]}: `{key}` is not allowed in a runbook: {why}"
            for key, why in _FORBIDDEN.items()
            if key in play
        ]
        if play.get("gather_facts") is None:
            problems.append(f"{where}:{play[LINE]}: say `gather_facts`, true or false")
    first, last = plays[0], plays[-1]
    if len(plays) < 2 or not _calls(path, last, "close"):
        problems.append(f"{where}: the last play must close the runbook (role runbook, tasks_from close)")
    if not _calls(path, first, "open"):
        problems.append(f"{where}: the first play must open the runbook (role runbook, tasks_from open)")
    for play, position in ((first, "first"), (last, "last")):
        if play.get("hosts") != "localhost" or play.get("connection") != "local":
            problems.append(f"{where}: the {position} play must run on localhost with `connection: local`")
    opening = [task for task in play_tasks(path, first) if not task.is_block]
    if opening and not _is_call(opening[0], "open"):
        problems.append(f"{where}: nothing may come before the runbook is opened")
    closing = [task for task in play_tasks(path, last) if not task.is_block]
    if closing and not _is_call(closing[-1], "close"):
        problems.append(f"{where}: nothing may come after the runbook is closed")
    return problems


def middle_problems(where: str, path: Path, plays: list[dict[str, Any]]) -> list[str]:
    """Middle plays act on the targets that answered, survive their failure, and say what happened."""
    problems = []
    lines = path.read_text(encoding="utf-8").splitlines()
    for play in plays:
        place = f"{where}:{play[LINE]}"
        groups = set(re.split(r"[:,]", str(play.get("hosts", ""))))
        if groups == {"localhost"}:
            # The control node acts for the targets. If it fails, no play follows: not even the closing one.
            if not any("rescue" in task.raw for task in play_tasks(path, play)):
                problems.append(
                    f"{place}: a middle play on localhost needs a block with `rescue`, or the closing play "
                    "does not run"
                )
        elif not groups <= _TARGET_GROUPS:
            number = next(
                i for i in range(play[LINE] - 1, len(lines)) if lines[i].lstrip("- ").startswith("hosts:")
            )
            if not (lines[number - 1].lstrip().startswith("#") or " # " in lines[number]):
                problems.append(
                    f"{place}: a middle play acts on runbook_targets, or a comment above `hosts` says why not"
                )
        elif play.get("ignore_unreachable") is not True:
            problems.append(
                f"{place}: `ignore_unreachable: true` is missing, so the closing play may not run"
            )
    tasks = [task for play in plays for task in play_tasks(path, play)]
    if plays and not any("runbook_result" in str(task.raw) for task in tasks):
        problems.append(f"{where}: no play sets runbook_result, so nothing is known of any target")
    problems += [
        f"{task.where(path.parents[1])}: runbook_result is {status!r} whatever happened; "
        "compute a measured outcome from what was measured"
        for task in tasks
        for status in [_fixed_success(task)]
        if status is not None
    ]
    return problems


def _fixed_success(task: Task) -> str | None:
    """A measured outcome that a set_fact claims outside of any condition."""
    if task.short_module != "set_fact" or task.get("when") is not None:
        return None
    result = bare(task.arguments).get("runbook_result")
    status = str(result.get("status", "")) if isinstance(result, dict) else ""
    return status if status in {"verified", "unchanged"} else None


def lock_problems(where: str, path: Path, runbook: Runbook, plays: list[dict[str, Any]]) -> list[str]:
    """A runbook that names a lock takes it, and gives it back whatever happens."""
    if runbook.description.lock.scope == "none":
        return []
    tasks = [task for play in plays for task in play_tasks(path, play)]
    problems = []
    if not any(_is_call(task, "lock") for task in tasks):
        problems.append(f"{where}: the description names a lock, but no play takes it (tasks_from lock)")
    releases = [task for task in tasks if _is_call(task, "unlock")]
    if not any(task.section == "always" for task in releases):
        problems.append(f"{where}: the lock must be released in an `always` (tasks_from unlock)")
    return problems


def alert_problems(where: str, runbook: Runbook, alerts: set[str]) -> list[str]:
    """Every alert that leads to a runbook must exist."""
    return [
        f"{where}: alert {alert} is in no rule file of role prometheus"
        for alert in runbook.description.alerts
        if alert not in alerts
    ]


def alerts_in(root: Path) -> set[str]:
    """The alerts of every Prometheus rule file."""
    found: set[str] = set()
    for path in (root / "roles" / "prometheus" / "files" / "rules").glob("*.y*ml"):
        for group in (read(path) or {}).get("groups") or []:
            found |= {rule["alert"] for rule in group.get("rules") or [] if "alert" in rule}
    return found


def _calls(path: Path, play: dict[str, Any], entry_point: str) -> bool:
    return any(_is_call(task, entry_point) for task in play_tasks(path, play))


def _is_call(task: Task, entry_point: str) -> bool:
    arguments = task.arguments
    return (
        task.module in {"ansible.builtin.include_role", "ansible.builtin.import_role"}
        and arguments.get("name") == "runbook"
        and str(arguments.get("tasks_from", "")).removesuffix(".yml") == entry_point
    )
