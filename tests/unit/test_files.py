"""Files that are written atomically and durably."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stationkeeper.files import sync_directory, write_atomically

DISK_FULL = OSError(28, "No space left on device")


@pytest.fixture(params=[0o000, 0o077], ids=["open umask", "narrow umask"])
def any_umask(request: pytest.FixtureRequest) -> Any:
    before = os.umask(request.param)
    yield
    os.umask(before)


def failing(error: BaseException, *, directory: bool) -> Callable[[int], None]:
    """Return an fsync that fails for directories or for files, and works for the others."""
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) is directory:
            raise error
        real(descriptor)

    return fsync


@pytest.mark.parametrize("content", ["größer\n", b"\x00\xff"])
def test_text_and_bytes_replace_what_stood(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "file"
    path.write_text("a longer text that stood here before")
    write_atomically(path, content)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


def test_the_content_is_on_the_disk_before_its_name_and_the_name_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    seen = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        about = os.fstat(descriptor)
        # What is made durable, how complete it is, and what stands under the name meanwhile.
        if stat.S_ISDIR(about.st_mode):
            seen.append(("directory", os.path.samestat(about, tmp_path.stat()), path.read_text()))
        else:
            seen.append(("file", about.st_size, path.read_text()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(path, "new and whole")
    assert seen == [("file", len("new and whole"), "old"), ("directory", True, "new and whole")]


@pytest.mark.usefixtures("any_umask")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644])
def test_nobody_else_reads_the_file_before_it_has_its_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int
) -> None:
    path = tmp_path / "file"
    path.write_text("readable before")
    path.chmod(0o666)
    modes = []
    real_temporary, real_replace = tempfile.mkstemp, Path.replace

    def mkstemp(*arguments: Any, **options: Any) -> tuple[int, str]:
        descriptor, name = real_temporary(*arguments, **options)
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor, name

    def replace(self: Path, target: Path) -> Path:
        modes.append(stat.S_IMODE(self.stat().st_mode))
        return real_replace(self, target)

    monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
    monkeypatch.setattr(Path, "replace", replace)
    write_atomically(path, "secret", mode=mode)
    assert modes == [0o600, mode]
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_only_the_owner_reads_a_file_of_which_nothing_is_said(tmp_path: Path) -> None:
    write_atomically(tmp_path / "file", "secret")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600


@pytest.mark.parametrize("error", [DISK_FULL, KeyboardInterrupt()], ids=["full disk", "interrupt"])
def test_a_failure_leaves_what_stood_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, "fsync", failing(error, directory=False))
    with pytest.raises(type(error)):
        write_atomically(path, "new")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


def test_what_cannot_be_replaced_stays(tmp_path: Path) -> None:
    path = tmp_path / "directory"
    path.mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(path, "new")
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_not_durable_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    monkeypatch.setattr(os, "fsync", failing(DISK_FULL, directory=True))
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match="No space left"):
        sync_directory(tmp_path)


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_is_replaced_and_its_target_left_alone(tmp_path: Path, dangling: bool) -> None:
    target, path = tmp_path / "target", tmp_path / "link"
    if not dangling:
        target.write_text("somebody else's")
    path.symlink_to(target)
    write_atomically(path, "new")
    assert not path.is_symlink()
    assert path.read_text() == "new"
    assert (target.read_text() if target.exists() else "") == ("" if dangling else "somebody else's")


def test_a_directory_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "file", "new")
    with pytest.raises(NotADirectoryError):
        sync_directory(Path(__file__))
