"""Every playbook, role, module and page of the repository keeps the rules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ansible_collections
import pytest
from harness import ROOT, Environment
from rules import documents, modules, playbooks, repository, roles

from stationkeeper.runbooks.catalogue import catalogue, runbook_files
from stationkeeper.secrets import leaks

ROLES = sorted(path.parent for path in (ROOT / "roles").glob("*/tasks"))
MODULES = sorted((ROOT / "library").glob("*.py"))
RUNBOOKS = runbook_files(ROOT)
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("**/*.md"))]


def report(problems: list[str]) -> str:
    return "\n" + "\n".join(problems)


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_runbook(root: Path, path: Path, own_modules: set[str]) -> None:
    problems = playbooks.runbook_problems(root, path, playbooks.alerts_in(root), own_modules)
    assert not problems, report(problems)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_role(root: Path, role: Path, own_modules: set[str]) -> None:
    problems = roles.role_problems(root, role, own_modules)
    assert not problems, report(problems)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_module(path: Path) -> None:
    problems = modules.module_problems(path)
    assert not problems, report(problems)


def test_generated_pages_are_current(root: Path) -> None:
    runbooks, errors = catalogue(root)
    problems = [str(error) for error in errors] + documents.page_problems(root, runbooks)
    assert not problems, report(problems)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_in_documentation_exist(root: Path, path: Path) -> None:
    problems = documents.command_problems(root, path)
    assert not problems, report(problems)


def test_nothing_secret_is_tracked(root: Path) -> None:
    problems = leaks.file_problems(root, leaks.tracked_files(root))
    assert not problems, report(problems)


def test_host_keys_are_checked_everywhere(root: Path) -> None:
    problems = repository.host_key_problems(root, leaks.tracked_files(root))
    assert not problems, report(problems)


def test_gitignore_keeps_state_and_secrets_out(root: Path) -> None:
    problems = repository.ignore_problems(root)
    assert not problems, report(problems)


def test_scenarios_define_the_secrets_that_they_use(root: Path) -> None:
    scenarios = sorted(path.parent for path in (root / "molecule").glob("*/molecule.yml"))
    assert scenarios
    problems = [problem for one in scenarios for problem in repository.scenario_secret_problems(one)]
    assert not problems, report(problems)


def test_collections_are_pinned_to_what_is_installed(root: Path) -> None:
    collections = Path(next(iter(ansible_collections.__path__)))
    problems = repository.pin_problems(root / "requirements.yml", collections)
    assert not problems, report(problems)


def test_ansible_reads_every_module(root: Path, ansible_environment: Environment) -> None:
    names = [path.stem for path in MODULES]
    done = ansible_environment.run(["ansible-doc", "--json", "-t", "module", *names], root)
    assert done.returncode == 0, done.stderr
    documented = json.loads(done.stdout)
    assert [name for name in names if not documented.get(name, {}).get("doc")] == [], done.stderr
    for path in MODULES:
        shown = documented[path.stem]["doc"].get("options") or {}
        assert option_names(shown) == option_names(modules.documented_options(path)), path.stem


def option_names(options: dict[str, Any], prefix: str = "") -> set[str]:
    """The names of all options, with the suboptions below them."""
    names = {prefix + name for name in options}
    for name, option in options.items():
        names |= option_names(option.get("suboptions") or {}, f"{prefix}{name}.")
    return names


def test_playbooks_parse_without_deprecation(root: Path, ansible_environment: Environment) -> None:
    files = [str(path.relative_to(root)) for path in sorted((root / "playbooks").glob("*.yml"))]
    done = ansible_environment.run(
        ["ansible-playbook", "--syntax-check", *files],
        root,
        ANSIBLE_DEPRECATION_WARNINGS="1",
        _ANSIBLE_TEMPLAR_UNTRUSTED_TEMPLATE_BEHAVIOR="error",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "DEPRECATION" not in done.stdout + done.stderr
