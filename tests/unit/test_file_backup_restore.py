"""Files that come back from a real restic: where they belong, as they were, with what they replace kept."""

from __future__ import annotations

import os
import subprocess
from contextlib import closing
from pathlib import Path

import pytest
from debian_tools import tool
from file_backup_world import World

from stationkeeper.backup.files import copies
from stationkeeper.backup.files.restore import Restored, in_place, to_scratch
from stationkeeper.backup.files.settings import BackupError


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One host with one backup for all tests of this file, in their order."""
    made = World(tmp_path_factory.mktemp("world"))
    latch = made.host / "station" / "latch"
    latch.mkdir(parents=True)
    (latch / "stop.json").write_text("latched\n")
    (made.host / "station" / "config.yaml").write_text("power: 10\n")
    made.add(name="station", paths=[made.host / "station"], scratch_only=[latch])
    with closing(made.connect()) as connection, connection:
        connection.executemany("INSERT INTO pair VALUES (?, 0)", [(number,) for number in range(100)])
    result = made.run()
    assert result.succeeded, result.message
    return made


@pytest.fixture
def restic_of_the_test(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts have it as `restic`."""
    monkeypatch.setenv("PATH", f"{tool('restic').parent}:{os.environ['PATH']}")


pytestmark = pytest.mark.usefixtures("restic_of_the_test")


def contents(directory: Path) -> dict[str, tuple[int, bytes]]:
    found = [path for path in sorted(directory.rglob("*")) if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(directory)): (path.stat().st_mode, path.read_bytes()) for path in found}


def put_back(world: World, name: str, stamp: str, *, dry_run: bool = False) -> Restored:
    restored = to_scratch(world.settings, name, stamp=stamp)
    in_place(world.settings, restored, dry_run=dry_run)
    return restored


def test_files_come_back_where_they_were(world: World, tmp_path: Path) -> None:
    """The guides unpack what was packed as opt/x/… with `tar -C /opt/x`: it lies in /opt/x/opt/x."""
    etc = world.host / "etc"
    subprocess.run(["tar", "-czf", tmp_path / "b.tgz", etc], check=True, capture_output=True)
    before = contents(etc)
    for path in etc.iterdir():
        path.unlink()
    subprocess.run(["tar", "-xzf", tmp_path / "b.tgz", "-C", etc], check=True)
    assert not (etc / "1.conf").exists()
    assert (etc / str(etc).lstrip("/") / "1.conf").exists()
    subprocess.run(["rm", "-rf", etc], check=True)

    restored = put_back(world, "configuration", "lost")
    assert contents(etc) == before
    assert (etc / "link").readlink() == Path("1.conf")
    assert restored.replaced == []
    assert (restored.kept, restored.scratch) == ("", "")


def test_what_is_replaced_is_kept_and_what_is_new_stays(world: World) -> None:
    etc = world.host / "etc"
    (etc / "1.conf").write_text("spoilt\n")
    # Of the same size and time, as a damaged disk leaves it.
    about = (etc / "3.conf").stat()
    (etc / "3.conf").write_text("setting = x\n")
    os.utime(etc / "3.conf", ns=(about.st_atime_ns, about.st_mtime_ns))
    (etc / "2.conf").chmod(0o600)
    (etc / "new.conf").write_text("of today\n")
    planned = put_back(world, "configuration", "planned", dry_run=True)
    assert planned.replaced == [f"{etc}/{number}.conf" for number in (1, 2, 3)]
    assert (etc / "1.conf").read_text() == "spoilt\n"
    restored = put_back(world, "configuration", "real")
    assert restored.replaced == planned.replaced
    assert restored.kept == str(world.settings.state / "replaced" / "real")
    assert (Path(restored.kept) / str(etc).lstrip("/") / "1.conf").read_text() == "spoilt\n"
    assert (etc / "1.conf").read_text() == "setting = 1\n"
    assert (etc / "3.conf").read_text() == "setting = 3\n"
    assert (etc / "2.conf").stat().st_mode & 0o777 == 0o644
    assert (etc / "new.conf").read_text() == "of today\n"
    again = put_back(world, "configuration", "again")
    assert again.changes == []


def test_a_database_comes_back_without_the_log_of_another(world: World) -> None:
    """A write-ahead log that stays beside a restored database is applied to it, and spoils it."""
    world.database.unlink()
    log = world.database.with_name("grafana.db-wal")
    log.write_bytes(b"what another database left")
    restored = put_back(world, "grafana", "database")
    assert not log.exists()
    assert (Path(restored.kept) / str(log).lstrip("/")).read_bytes() == b"what another database left"
    with closing(world.connect()) as connection:
        assert connection.execute("SELECT count(*), sum(a) FROM pair").fetchone() == (100, 4950)


def test_an_emergency_stop_is_not_put_back(world: World) -> None:
    latch = world.host / "station" / "latch" / "stop.json"
    latch.unlink()
    (world.host / "station" / "config.yaml").unlink()
    restored = put_back(world, "station", "station")
    assert (world.host / "station" / "config.yaml").exists()
    assert not latch.exists()
    assert str(latch) in restored.left_out


def test_a_host_made_anew_gets_its_own_owners(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """User numbers are given in the order of installation: by number, Redis' files would be Grafana's."""
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    here = copies.owners()
    renumbered = {
        "users": here["users"] | {"root": 4711},
        "groups": here["groups"] | {"root": 4712},
    }
    monkeypatch.setattr(copies, "owners", lambda: renumbered)
    restored = to_scratch(world.settings, "configuration", only=[world.host / "etc" / "0.conf"])
    found = Path(restored.scratch) / str(world.host).lstrip("/") / "etc" / "0.conf"
    assert (found.stat().st_uid, found.stat().st_gid, found.stat().st_mode & 0o777) == (4711, 4712, 0o640)
    assert not found.with_name("1.conf").exists()


def test_what_cannot_be_restored_is_refused(world: World) -> None:
    with pytest.raises(BackupError, match="has no set models; it has configuration, grafana, station"):
        to_scratch(world.settings, "models")
    with pytest.raises(BackupError, match="no snapshot ffff of set station"):
        to_scratch(world.settings, "station", snapshot="ffff")
    with pytest.raises(BackupError, match="has none of /nowhere"):
        to_scratch(world.settings, "station", only=[Path("/nowhere")])
