"""Read YAML with line numbers, and walk tasks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ansible.playbook.block import Block
from ansible.playbook.task import Task as AnsibleTask

LINE = "__line__"

#: Keywords of a task that are no module.
TASK_KEYWORDS = frozenset({*AnsibleTask.fattributes, *Block.fattributes, "local_action"})
BLOCKS = ("block", "rescue", "always")


class _Loader(yaml.SafeLoader):
    """Adds the line to every mapping; reads Ansible's own tags as plain values."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping that knows its line (1-based)."""
        mapping = super().construct_mapping(node, deep=deep)
        mapping[LINE] = node.start_mark.line + 1
        return mapping


def _plain(loader: _Loader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)


_Loader.add_multi_constructor("!", _plain)


def read(path: Path) -> Any:
    """One YAML document with lines in its mappings."""
    # A SafeLoader: unknown tags become plain values, never objects.
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)


def bare(value: Any) -> Any:
    """The value without line numbers."""
    if isinstance(value, dict):
        return {key: bare(item) for key, item in value.items() if key != LINE}
    return [bare(item) for item in value] if isinstance(value, list) else value


@dataclass(frozen=True)
class Task:
    """One task in a file, with what it inherits from its blocks."""

    path: Path
    raw: dict[str, Any]
    inherited: dict[str, Any] = field(default_factory=dict)
    section: str = "tasks"

    @property
    def line(self) -> int:
        """Where the task starts."""
        return int(self.raw[LINE])

    @property
    def name(self) -> str:
        """Its name, or an empty text."""
        return str(self.raw.get("name", ""))

    @property
    def is_block(self) -> bool:
        """Whether it only groups tasks."""
        return "block" in self.raw

    @property
    def module(self) -> str:
        """The module it calls, or an empty text for a block."""
        names = [
            key
            for key in self.raw
            if key != LINE and key not in TASK_KEYWORDS and not key.startswith("with_")
        ]
        return names[0] if names else ""

    @property
    def short_module(self) -> str:
        """The module without its collection."""
        return self.module.rpartition(".")[2]

    @property
    def arguments(self) -> dict[str, Any]:
        """The module's arguments, if they are a mapping."""
        value = self.raw.get(self.module)
        return value if isinstance(value, dict) else {}

    def get(self, keyword: str) -> Any:
        """A keyword of the task or of the blocks around it."""
        return self.raw.get(keyword, self.inherited.get(keyword))

    def where(self, root: Path) -> str:
        """Path and line for a message."""
        path = self.path.relative_to(root) if self.path.is_relative_to(root) else self.path
        return f"{path}:{self.line}"

    def has_comment(self) -> bool:
        """Whether a comment stands right above the task or within it."""
        lines = self.path.read_text(encoding="utf-8").splitlines()
        start = self.line - 1
        end = start + 1
        indent = len(lines[start]) - len(lines[start].lstrip())
        dash = indent if lines[start].lstrip().startswith("-") else max(indent - 2, 0)
        while end < len(lines) and (not lines[end].strip() or _indent(lines[end]) > dash):
            end += 1
        above = lines[max(start - 1, 0) : start]
        return any(line.lstrip().startswith("#") or " # " in line for line in above + lines[start:end])


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def walk(
    path: Path, tasks: Any, inherited: dict[str, Any] | None = None, section: str = "tasks"
) -> Iterator[Task]:
    """Every task in a list, blocks and what is in them."""
    for raw in tasks if isinstance(tasks, list) else []:
        if not isinstance(raw, dict):
            continue
        task = Task(path, raw, inherited or {}, section)
        yield task
        if task.is_block:
            handed_down = {**task.inherited, **{key: raw[key] for key in raw if key in TASK_KEYWORDS}}
            for part in BLOCKS:
                handed_down.pop(part, None)
            for key in ("name", "vars"):
                handed_down.pop(key, None)
            for part in BLOCKS:
                yield from walk(path, raw.get(part), handed_down, part)


def tasks_in(path: Path) -> list[Task]:
    """Every task of a task file."""
    return list(walk(path, read(path)))


def play_tasks(path: Path, play: dict[str, Any]) -> list[Task]:
    """Every task of a play, those of the task files that it includes among them."""
    sections = ("pre_tasks", "tasks", "post_tasks", "handlers")
    return [found for section in sections for task in walk(path, play.get(section)) for found in _whole(task)]


def _whole(task: Task) -> Iterator[Task]:
    """Return a task and, where it includes a file beside its own, what is in that file."""
    yield task
    if task.short_module not in {"include_tasks", "import_tasks"}:
        return
    value = task.raw[task.module]
    name = value if isinstance(value, str) else task.arguments.get("file", "")
    included = task.path.parent / str(name)
    if "{{" not in str(name) and included.is_file():
        handed_down: dict[str, Any] = dict(task.inherited)
        handed_down |= {key: task.raw[key] for key in ("when", "become") if key in task.raw}
        for inner in walk(included, read(included), handed_down):
            yield from _whole(inner)
