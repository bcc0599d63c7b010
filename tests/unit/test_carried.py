"""Programs that hosts keep: what is written, and that each runs with nothing but python3."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from module_runner import run_module

PROGRAMS = {
    "backup_program": "stationkeeper.backup.command",
    "database_dump_program": "stationkeeper.restore.dump_command",
    "database_guard_program": "stationkeeper.database.cluster.guard",
}


@pytest.mark.parametrize(("module", "program"), PROGRAMS.items())
def test_it_is_written_whole_once_and_runs_without_the_package(
    tmp_path: Path, module: str, program: str
) -> None:
    root = tmp_path / "library"
    preview = run_module(tmp_path, module, {"path": str(root)}, check=True, package=None)
    assert preview["changed"], preview
    assert not root.exists()
    made = run_module(tmp_path, module, {"path": str(root)}, package=None)
    assert made["files"] == preview["files"]
    assert f"{program.replace('.', '/')}.py" in made["files"]
    assert not any("carried" in name or "audit" in name for name in made["files"])
    # -I: neither this checkout nor the environment; -S: no installed packages.
    command = f"import sys; sys.path.insert(0, {str(root)!r}); import {program}"
    subprocess.run([sys.executable, "-I", "-S", "-c", command], check=True, cwd="/")
    assert run_module(tmp_path, module, {"path": str(root)}, package=None)["changed"] is False


def test_a_file_that_was_changed_is_put_right(tmp_path: Path) -> None:
    root = tmp_path / "library"
    run_module(tmp_path, "database_guard_program", {"path": str(root)}, package=None)
    changed = root / "stationkeeper" / "files.py"
    good = changed.read_text()
    changed.write_text("broken")
    again = run_module(tmp_path, "database_guard_program", {"path": str(root)}, package=None)
    assert again["files"] == ["stationkeeper/files.py"]
    assert changed.read_text() == good
    assert changed.stat().st_mode & 0o777 == 0o644


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "library").write_text("a file")
    told = run_module(tmp_path, "database_guard_program", {"path": str(tmp_path / "library")}, package=None)
    assert told["failed"]
    assert "library" in told["msg"]
