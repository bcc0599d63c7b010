"""The emergency-stop latch: what counts as latched, and that it is durable."""

from __future__ import annotations

import ast
import errno
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stationkeeper.controller import latch
from stationkeeper.controller.latch import FILE_NAME, LatchError, clear_latch, read_latch, set_latch

Places = tuple[Path, Path]


@pytest.fixture
def places(tmp_path: Path) -> Places:
    directory = tmp_path / "disk"
    directory.mkdir()
    return directory, tmp_path / "tmpfs" / "latch"


def engage(places: Places, identifier: str = "run-1") -> latch.LatchChange:
    return set_latch(
        reason="smoke", who="ops@control", id=identifier, directory=places[0], fallback=places[1]
    )


def test_absent_only_when_the_directory_proves_it(places: Places) -> None:
    assert not read_latch(*places).latched
    places[0].rmdir()
    state = read_latch(*places)
    assert state.latched
    assert "missing" in state.problems[0]


def test_set_keeps_the_first_record_and_clear_removes_it(places: Places) -> None:
    assert engage(places).changed
    again = engage(places, "run-2")
    assert not again.changed
    assert again.after.record is not None
    assert again.after.record.id == "run-1"
    assert again.after.persistent
    assert clear_latch(*places).changed
    assert not clear_latch(*places).changed
    assert not read_latch(*places).latched
    assert list(places[0].iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"{", b'{"id": 1}', b"\xff\xfe", b"[]", b"null"])
def test_whatever_is_in_the_file_means_latched(places: Places, content: bytes) -> None:
    (places[0] / FILE_NAME).write_bytes(content)
    state = read_latch(*places)
    assert state.latched
    assert state.record is not None
    assert state.record.reason == "unreadable"


def test_a_dangling_link_and_a_directory_mean_latched(places: Places) -> None:
    (places[0] / FILE_NAME).symlink_to("/nowhere")
    assert read_latch(*places).latched
    clear_latch(*places)
    (places[0] / FILE_NAME).mkdir()
    assert read_latch(*places).latched
    with pytest.raises(LatchError, match="could not be cleared"):
        clear_latch(*places)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ELOOP, errno.ENOTDIR, errno.ESTALE])
def test_any_other_error_means_latched(places: Places, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(self: Path) -> os.stat_result:
        raise OSError(code, os.strerror(code), str(self))

    monkeypatch.setattr(Path, "lstat", refuse)
    state = read_latch(*places)
    assert state.latched
    assert state.problems


def test_a_latch_in_memory_alone_latches_too(places: Places) -> None:
    places[1].mkdir(parents=True)
    (places[1] / FILE_NAME).write_text("x")
    state = read_latch(*places)
    assert state.latched
    assert not state.persistent


def refuse_disk(
    monkeypatch: pytest.MonkeyPatch, disk: Path, *, names_too: bool, memory_too: bool = False
) -> None:
    real_temporary, real_open = tempfile.mkstemp, os.open

    def mkstemp(*arguments: Any, **options: Any) -> tuple[int, str]:
        if memory_too or Path(options["dir"]) == disk:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        made: tuple[int, str] = real_temporary(*arguments, **options)
        return made

    def opened(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if names_too and flags & os.O_CREAT and Path(path).parent == disk:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_open(path, flags, *rest, **options)

    monkeypatch.setattr(tempfile, "mkstemp", mkstemp)
    monkeypatch.setattr(os, "open", opened)


def test_a_full_disk_takes_a_bare_name_and_memory_the_reason(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_disk(monkeypatch, places[0], names_too=False)
    done = engage(places)
    assert done.changed
    assert done.after.persistent
    assert done.after.record is not None
    assert done.after.record.reason == "smoke"
    assert "No space left" in done.warnings[0]


def test_a_completely_full_disk_falls_back_to_memory_and_is_moved_later(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        refuse_disk(patched, places[0], names_too=True)
        done = engage(places)
        assert done.changed
        assert done.after.latched
        assert not done.after.persistent
        assert "until the next reboot" in done.warnings[0]
        assert not engage(places, "run-2").changed
    moved = engage(places, "run-3")
    assert moved.changed
    assert moved.after.persistent
    assert moved.after.record is not None
    assert moved.after.record.id == "run-1"
    clear_latch(*places)
    assert not read_latch(*places).latched


def test_nowhere_to_write_is_an_error(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_disk(monkeypatch, places[0], names_too=True, memory_too=True)
    with pytest.raises(LatchError, match="No space left"):
        engage(places)


def test_of_many_at_once_one_wins_and_its_record_is_whole(places: Places) -> None:
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda n: engage(places, f"run-{n}"), range(16)))
    assert sum(change.changed for change in done) == 1
    assert {change.after.record.id for change in done if change.after.record} == {
        change.after.record.id for change in done if change.changed and change.after.record
    }


def test_the_file_runs_without_anything_but_the_standard_library(places: Places) -> None:
    source = Path(latch.__file__)
    imported = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(source.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [n.name for n in node.names]
        )
    }
    assert imported <= sys.stdlib_module_names
    # As Ansible ships it: the bare file, isolated from every installed package.
    code = (
        "import importlib.util as u, pathlib, sys; s = u.spec_from_file_location('latch', sys.argv[1]); "
        "m = u.module_from_spec(s); sys.modules['latch'] = m; s.loader.exec_module(m); "
        "d = pathlib.Path(sys.argv[2]); "
        "m.set_latch(reason='r', who='w', id='i', directory=d, fallback=d / 'no'); "
        "print(m.read_latch(d, d / 'no'))"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(source), str(places[0])],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "latched=True" in done.stdout
