"""Rules for every role."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rules.source import Task, bare, read, tasks_in
from rules.tasks import task_problems

#: The one role that is no provisioning: it has entry points of its own.
OTHER_ENTRY_POINTS = {"runbook": ("open", "lock", "unlock", "close")}

#: Variables that roles share, from group_vars.
SHARED_PREFIXES = ("stationkeeper_", "secret_")

#: Built-in modules that only read and do the same in check mode: they need no `check_mode: false`.
NATIVE_READS = frozenset(
    {
        "assert",
        "debug",
        "fail",
        "find",
        "gather_facts",
        "getent",
        "include_role",
        "include_tasks",
        "include_vars",
        "import_role",
        "import_tasks",
        "meta",
        "package_facts",
        "ping",
        "service_facts",
        "set_fact",
        "setup",
        "slurp",
        "stat",
    }
)

#: Modules whose `changed` Ansible cannot know.
COMMANDS = frozenset({"command", "shell", "script", "raw", "expect"})


def role_problems(root: Path, role: Path, own_modules: set[str]) -> list[str]:
    """Every breach of one role."""
    problems = [f"roles/{role.name}/{missing} is missing" for missing in _missing(role)]
    if problems:
        return problems
    files = sorted(role.glob("tasks/**/*.yml")) + sorted(role.glob("handlers/*.yml"))
    tasks = [task for path in files for task in tasks_in(path)]
    return [
        *spec_problems(role),
        *meta_problems(role),
        *task_problems(root, tasks, own_modules),
        *variable_problems(root, role, tasks),
        *verify_problems(root, role),
    ]


def _entry_points(role: Path) -> tuple[str, ...]:
    return OTHER_ENTRY_POINTS.get(role.name, ("main", "verify"))


def _missing(role: Path) -> list[str]:
    needed = ["meta/main.yml", "meta/argument_specs.yml"]
    needed += [f"tasks/{entry_point}.yml" for entry_point in _entry_points(role)]
    return [name for name in needed if not (role / name).is_file()]


def _defaults(role: Path) -> dict[str, Any]:
    path = role / "defaults" / "main.yml"
    return bare(read(path)) or {} if path.is_file() else {}


def spec_problems(role: Path) -> list[str]:
    """The argument specs and the defaults must say the same, with a sentence for each variable."""
    where = f"roles/{role.name}/meta/argument_specs.yml"
    specs = (bare(read(role / "meta" / "argument_specs.yml")) or {}).get("argument_specs") or {}
    defaults = _defaults(role)
    problems = [
        f"{where}: entry point {entry!r} is missing" for entry in _entry_points(role) if entry not in specs
    ]
    declared: set[str] = set()
    for entry, spec in specs.items():
        if not spec.get("short_description"):
            problems.append(f"{where}: entry point {entry!r} has no short_description")
        for name, option in (spec.get("options") or {}).items():
            declared.add(name)
            problems += _option_problems(f"{where}: {entry}.{name}", role.name, name, option, defaults)
    problems += [
        f"roles/{role.name}/defaults/main.yml: {name} is in no argument spec"
        for name in sorted(set(defaults) - declared)
        if not name.startswith("_")
    ]
    problems += [
        f"roles/{role.name}/defaults/main.yml: internal variable {name} belongs in vars/main.yml"
        for name in sorted(defaults)
        if name.startswith("_")
    ]
    return problems


def _option_problems(
    where: str, role: str, name: str, option: dict[str, Any], defaults: dict[str, Any]
) -> list[str]:
    problems = []
    if not option.get("description"):
        problems.append(f"{where} has no description")
    if not option.get("type"):
        problems.append(f"{where} has no type")
    shared = name.startswith(SHARED_PREFIXES) or name in {"runbook", "runbook_run"}
    if not name.startswith(f"{role}_") and not shared:
        problems.append(f"{where} must be named {role}_…")
    if option.get("required"):
        if name in defaults:
            problems.append(f"{where} is required, but defaults/main.yml gives it a value")
    elif name in defaults:
        if option.get("default") != defaults[name]:
            problems.append(
                f"{where}: default {option.get('default')!r} differs from {defaults[name]!r} "
                "in defaults/main.yml"
            )
    elif "default" in option:
        problems.append(
            f"{where} has a default, but defaults/main.yml has no {name}: Ansible would not apply it"
        )
    elif not shared:
        problems.append(f"{where} is optional, so defaults/main.yml must give it a value")
    return problems


def meta_problems(role: Path) -> list[str]:
    """A role says what it is and where it runs."""
    info = (bare(read(role / "meta" / "main.yml")) or {}).get("galaxy_info") or {}
    needed = ("author", "description", "license", "min_ansible_version", "platforms")
    return [
        f"roles/{role.name}/meta/main.yml: galaxy_info.{key} is missing"
        for key in needed
        if not info.get(key)
    ]


def variable_problems(root: Path, role: Path, tasks: list[Task]) -> list[str]:
    """Whatever a role sets carries its name, so that two roles never meet."""
    problems = []
    for task in tasks:
        where = task.where(root)
        allowed: tuple[str, ...] = (f"{role.name}_", f"_{role.name}_")
        register = task.raw.get("register")
        if register and not str(register).startswith(allowed):
            problems.append(f"{where}: registered variable {register!r} must be named _{role.name}_…")
        if task.short_module == "set_fact":
            problems += [
                f"{where}: fact {name!r} must be named _{role.name}_…"
                for name in bare(task.arguments)
                if name != "cacheable" and not name.startswith(allowed)
            ]
        if task.short_module in {"include_role", "import_role"}:
            called = str(task.arguments.get("name", ""))
            allowed += (f"{called}_", f"_{called}_")
        problems += [
            f"{where}: variable {name!r} must be named _{role.name}_…"
            for name in bare(task.raw.get("vars") or {})
            if not name.startswith((*allowed, "ansible_"))
        ]
    path = role / "vars" / "main.yml"
    if path.is_file():
        problems += [
            f"roles/{role.name}/vars/main.yml: {name!r} must be named _{role.name}_…"
            for name in bare(read(path)) or {}
            if not name.startswith(f"_{role.name}_")
        ]
    return problems


def verify_problems(root: Path, role: Path) -> list[str]:
    """tasks/verify.yml only reads, reads in check mode too, and can fail."""
    path = role / "tasks" / "verify.yml"
    if not path.is_file():
        return []
    tasks = _included(path)
    problems = []
    for task in tasks:
        where = task.where(root)
        # A module of ours may be asked what it would change: each of them knows check mode in full.
        asked = task.get("check_mode") is True and (root / "library" / f"{task.short_module}.py").is_file()
        reads = task.short_module in NATIVE_READS or task.get("check_mode") is False or asked
        if task.module and not reads:
            problems.append(
                f"{where}: {task.short_module} in verify must carry `check_mode: false`; in check mode "
                "it would be skipped and its result counted as good"
            )
        if task.short_module in COMMANDS and task.get("changed_when") is not False:
            problems.append(f"{where}: a command in verify must carry `changed_when: false`")
        if "notify" in task.raw:
            problems.append(f"{where}: verify only reads, so it notifies no handler")
    if not any(_can_fail(task) for task in tasks):
        problems.append(f"roles/{role.name}/tasks/verify.yml cannot fail: nothing in it asserts anything")
    return problems


def _can_fail(task: Task) -> bool:
    judged = task.raw.get("failed_when") not in {None, False} if "failed_when" in task.raw else False
    return task.short_module in {"assert", "fail"} or judged or "until" in task.raw


def _included(path: Path, seen: frozenset[Path] = frozenset()) -> list[Task]:
    tasks = tasks_in(path)
    found = list(tasks)
    for task in tasks:
        if task.short_module in {"include_tasks", "import_tasks"}:
            value = task.raw[task.module]
            name = value.get("file", "") if isinstance(value, dict) else str(value)
            other = path.parent / name
            if other.is_file() and other not in seen | {path}:
                found += _included(other, seen | {path})
    return found
