"""Read the runbooks of a repository without running them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stationkeeper.runbooks.description import Description, DescriptionError, parse_description

#: Playbooks that are no runbooks.
NO_RUNBOOKS = frozenset({"site"})


@dataclass(frozen=True)
class Runbook:
    """One runbook, as its file describes it."""

    name: str
    path: Path
    description: Description
    plays: list[dict[str, Any]]


class _Loader(yaml.SafeLoader):
    """Reads Ansible's own tags (!vault, !unsafe) as plain values."""


def _plain_tag(loader: _Loader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else None


_Loader.add_multi_constructor("!", _plain_tag)


def read_yaml(path: Path) -> Any:
    """Load one YAML file, tolerating Ansible's tags; raises yaml.YAMLError or OSError."""
    # The loader is a SafeLoader: unknown tags become plain values, never objects.
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506


def runbook_files(root: Path) -> list[Path]:
    """The playbooks under `root`/playbooks that must be runbooks, by name."""
    return [path for path in sorted((root / "playbooks").glob("*.yml")) if path.stem not in NO_RUNBOOKS]


def read_runbook(path: Path) -> Runbook:
    """Parse one runbook; raise DescriptionError that names the file and every problem."""
    try:
        plays = read_yaml(path)
    except (yaml.YAMLError, OSError) as error:
        raise DescriptionError(f"{path.stem}: cannot be read: {error}") from error
    if not isinstance(plays, list) or not plays or not all(isinstance(play, dict) for play in plays):
        raise DescriptionError(f"{path.stem}: a runbook is a list of plays")
    variables = plays[0].get("vars")
    raw = variables.get("runbook") if isinstance(variables, dict) else None
    return Runbook(path.stem, path, parse_description(path.stem, raw), plays)


def catalogue(root: Path) -> tuple[list[Runbook], list[DescriptionError]]:
    """Every runbook of the repository, and the error of each that cannot be read."""
    runbooks: list[Runbook] = []
    errors: list[DescriptionError] = []
    for path in runbook_files(root):
        try:
            runbooks.append(read_runbook(path))
        except DescriptionError as error:
            errors.append(error)
    return runbooks, errors
