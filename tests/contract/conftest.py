"""What the contract tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from harness import ROOT, SECOND_ANSIBLE, Environment, environments


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session", params=environments(), ids=lambda environment: environment.name)
def ansible_environment(request: pytest.FixtureRequest) -> Environment:
    """Each environment with Ansible that is to be tested."""
    environment: Environment = request.param
    return environment


@pytest.fixture(scope="session")
def own_modules(root: Path) -> set[str]:
    """Modules of this repository, which have no collection."""
    return {path.stem for path in (root / "library").glob("*.py")}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which versions were tested; what was not is never left out in silence."""
    second = os.environ.get(SECOND_ANSIBLE)
    text = f"tested, {second}" if second else f"NOT TESTED ({SECOND_ANSIBLE} is not set)"
    terminalreporter.write_line(f"contract: second ansible-core: {text}")
