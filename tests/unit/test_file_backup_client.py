"""What a host gets for its backups runs there without the package, and is written once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from stationkeeper.backup.files.client import Layout, converge, public_key


def test_the_program_runs_with_nothing_but_python(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "program", tmp_path / "configuration", tmp_path / "state")
    files = {"passphrase": "words\n", "settings.json": "{}\n"}
    planned = converge(layout, files, "wlce", dry_run=True)
    assert list(tmp_path.iterdir()) == []
    assert public_key(layout) == ""
    assert converge(layout, files, "wlce", dry_run=False) == planned
    assert converge(layout, files, "wlce", dry_run=False) == []
    assert public_key(layout).startswith("ssh-ed25519 ")
    assert public_key(layout).endswith(" backups of wlce")
    modes = {path.name: path.stat().st_mode & 0o777 for path in layout.configuration.iterdir()}
    assert modes == {
        "passphrase": 0o600,
        "settings.json": 0o600,
        "id_ed25519": 0o600,
        "id_ed25519.pub": 0o644,
    }

    # Without site-packages: what is not among the program's files cannot be imported.
    command = [sys.executable, "-S", "-B", "-m", "stationkeeper.backup.files.command"]
    done = subprocess.run(
        [*command, "--settings", str(layout.configuration / "settings.json"), "list"],
        cwd=layout.program,
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "settings.json is damaged (KeyError('redis')): site.yml writes it again" in done.stderr

    (layout.program / "stationkeeper" / "files.py").write_text("# changed by somebody\n")
    assert converge(layout, {**files, "passphrase": "other\n"}, "wlce", dry_run=False) == [
        str(layout.program / "stationkeeper" / "files.py"),
        str(layout.configuration / "passphrase"),
    ]
