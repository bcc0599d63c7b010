"""What a promoted server archives for the primary that was lost; the rest is seen in tests/database."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import yaml

TASKS = Path(__file__).resolve().parents[2] / "roles" / "pgbackrest" / "tasks" / "complete.yml"
#: Tells what it is asked to archive, and knows of each segment whether it is there.
STUB = """#!/bin/bash
segment=${@: -1}
echo "${segment##*/}" >> asked
[ ! -e broken ] || { echo 'unable to reach the repository'; exit 1; }
[ ! -e "archived.${segment##*/}" ] || echo "WARN: WAL file already exists in the repo1 archive"
"""


def complete(place: Path) -> tuple[int, list[str], list[str]]:
    """Run the task's own script, and return its code, what it archived and what it asked for."""
    (task,) = yaml.safe_load(TASKS.read_text())
    script = task["ansible.builtin.shell"]["cmd"].replace("{{ pgbackrest_stanza | quote }}", "flux")
    assert "{{" not in script
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=place,
        env={**os.environ, "PATH": f"{place}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.split(), (place / "asked").read_text().split()


def log(place: Path, archived: str) -> None:
    """Lay out what a standby has that was promoted; ``archived`` has the segments' last digits."""
    status = place / "archive_status"
    status.mkdir()
    for number in "56789A":
        (status / f"00000001000000000000000{number}.done").touch()
        if number in archived:
            (place / f"archived.00000001000000000000000{number}").touch()
    # Neither is a whole segment that counts as archived.
    for name in ("00000001000000000000000B.partial.done", "00000002.history.done"):
        (status / name).touch()
    (status / "00000002000000000000000B.ready").touch()
    program = place / "pgbackrest"
    program.write_text(STUB)
    program.chmod(0o755)


def test_what_was_on_its_way_is_archived_and_no_more_is_looked_at(tmp_path: Path) -> None:
    # 9 was quicker than 8: several are archived at once.
    log(tmp_path, archived="5679")
    code, archived, asked = complete(tmp_path)
    assert code == 0
    assert [name[-1] for name in archived] == ["A", "8"]
    assert [name[-1] for name in asked] == ["A", "9", "8", "7"]


def test_a_repository_that_does_not_answer_is_not_called_complete(tmp_path: Path) -> None:
    log(tmp_path, archived="5")
    (tmp_path / "broken").touch()
    code, archived, asked = complete(tmp_path)
    assert (code, archived) == (1, [])
    assert len(asked) == 1
