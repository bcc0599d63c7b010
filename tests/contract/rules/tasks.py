"""Rules for every task, wherever it stands."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from rules.source import Task


def task_problems(root: Path, tasks: Iterable[Task], own_modules: set[str]) -> list[str]:
    """Names, fully qualified modules, and no hidden failures."""
    problems = []
    for task in tasks:
        where = task.where(root)
        name = task.name
        if not name and task.module not in {"ansible.builtin.meta"}:
            problems.append(f"{where}: a task needs a name")
        elif name and not (name[0].isupper() or name.startswith("{{")):
            problems.append(f"{where}: task name {name!r} must start with a capital letter")
        elif name.endswith("."):
            problems.append(f"{where}: task name {name!r} must not end with a full stop")
        if task.module and "." not in task.module and task.module not in own_modules:
            problems.append(f"{where}: module {task.module!r} must be fully qualified")
        if "ignore_errors" in task.raw:
            problems.append(f"{where}: ignore_errors is not allowed; say with failed_when what is no failure")
        if task.raw.get("failed_when") is False and not task.has_comment():
            problems.append(f"{where}: `failed_when: false` needs a comment with the reason")
        if task.short_module == "pause" and "prompt" in task.arguments:
            problems.append(f"{where}: no prompts: nobody answers them under AWX")
        problems += _looped_secret(where, task)
    return problems


def _looped_secret(where: str, task: Task) -> list[str]:
    loop = str(task.raw.get("loop", ""))
    if "secret_" in loop and not task.get("no_log"):
        return [f"{where}: a loop over secrets needs `no_log: true` (a failed item is printed whole)"]
    return []
