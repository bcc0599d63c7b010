"""Every worker process of Ansible loads every filter plugin: what they import is paid for by each task."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PLUGINS = sorted((Path(__file__).resolve().parents[2] / "filter_plugins").glob("*.py"))
# Measured: the profiles' schema in one filter plugin took half of the control node's time in a health check.
SLOW_TO_LOAD = ("pydantic", "pymodbus", "psycopg2", "cryptography")
LOOK = """
import ansible.errors, runpy, sys
before = set(sys.modules)
runpy.run_path(sys.argv[1])
print(*set(sys.modules) - before)
"""


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_a_filter_plugin_loads_nothing_slow(plugin: Path) -> None:
    looked = subprocess.run(
        [sys.executable, "-c", LOOK, plugin],
        capture_output=True,
        text=True,
        check=True,
    )
    slow = sorted(set(looked.stdout.split()) & set(SLOW_TO_LOAD))
    assert not slow, f"{plugin.name} imports {', '.join(slow)}: import it in the filter that needs it"
