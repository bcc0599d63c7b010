"""The lab hosts' cache of compiled modules gives what compiling gives, and never stands in the way."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from labkit import image

PROGRAM = """
import os, sys
os.geteuid = lambda: 1  # nothing is kept in the machine's own folder, whoever runs the tests
sys.path.insert(0, {host!r})
import lab_code_cache
lab_code_cache.install({folder!r})
sys.path.insert(0, {archive!r})
import sent
print(sent.VALUE)
"""


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return send(tmp_path, "VALUE = 1\n")


def send(folder: Path, source: str) -> Path:
    archive = folder / "payload.zip"
    with zipfile.ZipFile(archive, "w") as payload:
        payload.writestr("sent.py", source)
    return archive


def run(archive: Path, folder: Path) -> str:
    host = str(Path(image.__file__).parent / "host")
    program = PROGRAM.format(host=host, folder=str(folder), archive=str(archive))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_kept_code_is_used_and_other_source_is_other_code(tmp_path: Path, archive: Path) -> None:
    kept = tmp_path / "kept"
    assert run(archive, kept) == "1"
    (file,) = kept.iterdir()
    stamp = file.stat().st_ino
    assert run(archive, kept) == "1"
    assert [entry.stat().st_ino for entry in kept.iterdir()] == [stamp], "it was compiled again"
    assert run(send(tmp_path, "VALUE = 2\n"), kept) == "2"
    assert len(list(kept.iterdir())) == 2


@pytest.mark.parametrize("rubbish", [b"", b"not code", b"N"])
def test_a_broken_file_is_compiled_again(tmp_path: Path, archive: Path, rubbish: bytes) -> None:
    kept = tmp_path / "kept"
    run(archive, kept)
    (file,) = kept.iterdir()
    file.write_bytes(rubbish)
    assert run(archive, kept) == "1"
    assert file.read_bytes() != rubbish


def test_a_folder_that_cannot_be_written_is_no_hindrance(tmp_path: Path, archive: Path) -> None:
    (tmp_path / "kept").write_text("a file where the folder would be")
    assert run(archive, tmp_path / "kept") == "1"


def test_the_image_holds_it_and_only_root_uses_it() -> None:
    loader = image.FILES[f"{image.DIST_PACKAGES}/lab_code_cache.pth"][1]
    assert len(loader.splitlines()) == 1, "site executes lines that begin with import, one by one"
    assert loader.startswith("import ")
    text = image.FILES[f"{image.DIST_PACKAGES}/lab_code_cache.py"][1]
    compile(text, "lab_code_cache.py", "exec")
    assert "if os.geteuid() == 0 and" in text
