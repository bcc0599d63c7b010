"""Book-keeping of faults and of running labs."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from labkit import cgroups, faults, inventory, lab, network, paths, record, status
from labkit.errors import LabError
from labkit.faults import Fault

TREES = cgroups.Trees(2, (("unified", "/nonexistent"),))


@pytest.fixture(autouse=True)
def run_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(paths, "RUN", tmp_path / "run")
    monkeypatch.setattr(paths, "DISKS", tmp_path / "disks")
    return tmp_path / "run"


@pytest.fixture
def removed_cuts(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[str, str]]]:
    removed: list[list[tuple[str, str]]] = []
    monkeypatch.setattr(network, "remove_cut", lambda _lab, elements: removed.append(elements))
    return removed


def _note(fault: Fault) -> None:
    faults._note(fault, healer=False)


def test_only_overdue_faults_are_healed(removed_cuts: list[list[tuple[str, str]]]) -> None:
    now = time.time()
    _note(Fault("cut", "flux", "wlce", now - 20, now - 10))
    _note(Fault("cut", "flux", "hmce", now - 20, now + 10, peer="lfce"))
    faults.heal_overdue("flux", TREES)
    assert [fault.host for fault in faults.load_all("flux")] == ["hmce"]
    assert len(removed_cuts) == 1


def test_heal_all_can_be_limited_to_a_host(removed_cuts: list[list[tuple[str, str]]]) -> None:
    now = time.time()
    for host in ("wlce", "hmce"):
        _note(Fault("cut", "flux", host, now, now + 60))
    assert [fault.host for fault in faults.heal_all("flux", TREES, "wlce")] == ["wlce"]
    assert [fault.host for fault in faults.heal_all("flux", TREES)] == ["hmce"]
    assert faults.load_all("flux") == []
    assert len(removed_cuts) == 2


def test_the_same_fault_again_replaces_the_first() -> None:
    now = time.time()
    _note(Fault("freeze", "flux", "wlce", now, now + 5))
    _note(Fault("freeze", "flux", "wlce", now, now + 50))
    assert [fault.until for fault in faults.load_all("flux")] == [now + 50]


def test_full_disk_heals_though_the_host_is_gone(tmp_path: Path) -> None:
    folder = tmp_path / "disks/flux/wlce/root/var/lib"
    folder.mkdir(parents=True)
    (folder / ".lab-fill-disk").touch()
    fault = Fault("fill-disk", "flux", "wlce", 1, 2, path="/var/lib")
    _note(fault)
    faults.heal_overdue("flux", TREES)
    assert list(folder.iterdir()) == []
    faults.heal(fault, TREES)  # a second time is no error


@pytest.mark.parametrize("seconds", [0, -1, 86_401])
def test_durations_are_bounded(seconds: int) -> None:
    with pytest.raises(LabError, match="1 to 86400 seconds"):
        faults.check_seconds(seconds)


def test_faults_say_what_they_are() -> None:
    cut = Fault("cut", "flux", "wlce", 0, 3600, control=True)
    assert cut.describe() == "wlce cut from all other hosts and the control node until 01:00:00Z"
    assert Fault("cut", "flux", "a", 0, 0, peer="b").describe() == "a cut from b until 00:00:00Z"
    assert "disk full at /var" in Fault("fill-disk", "flux", "a", 0, 0, path="/var").describe()


def test_a_damaged_note_is_ignored(run_folder: Path) -> None:
    (run_folder / "flux/faults").mkdir(parents=True)
    (run_folder / "flux/faults/cut-a.json").write_text("{")
    assert faults.load_all("flux") == []


def _record(name: str, owner: str, network_: str, boot: str | None = None) -> record.Record:
    return record.Record(name, owner, f"{owner}/inv", network_, "", "", boot or record.boot_id())


def test_a_record_of_an_earlier_boot_counts_for_nothing() -> None:
    record.save(_record("flux", "/a", "10.78.10.0/24", boot="earlier"))
    assert record.load("flux") is None
    assert record.all_records() == []


def test_a_lab_of_another_checkout_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    record.save(_record("flux", "/other/checkout", "10.78.10.0/24"))
    monkeypatch.setattr(cgroups, "machines", lambda _trees, _prefix: {"x"})
    wanted = inventory.Lab("flux", "/mine", "10.78.10.0/24", ())
    with pytest.raises(LabError, match=r"of /other/checkout .*labctl down flux"):
        lab._claim(wanted, TREES)
    # Once its machines are gone, the name is free.
    monkeypatch.setattr(cgroups, "machines", lambda _trees, _prefix: set())
    lab._claim(wanted, TREES)
    claimed = record.load("flux")
    assert claimed is not None
    assert claimed.owner == str(paths.REPOSITORY)


def test_a_network_belongs_to_one_lab() -> None:
    record.save(_record("other", "/a", "10.78.10.0/24"))
    with pytest.raises(LabError, match=r"network 10.78.10.0/24 is used by lab other"):
        lab._claim(inventory.Lab("flux", "/mine", "10.78.10.0/24", ()), TREES)


def test_a_process_is_known_by_number_and_start_time(tmp_path: Path) -> None:
    note = tmp_path / "note.json"
    record.note_process(note, os.getpid())
    assert record.living_process(note) == os.getpid()
    record.write_json(note, {"pid": os.getpid(), "start": 1})
    assert record.living_process(note) is None
    child = subprocess.Popen(["true"])
    record.note_process(note, child.pid)
    child.wait()
    assert record.living_process(note) is None
    assert record.living_process(tmp_path / "missing.json") is None


def test_a_lock_excludes_and_says_so(run_folder: Path) -> None:
    with record.locked("flux"):
        with pytest.raises(LabError, match="another labctl"), record.locked("flux", wait_s=0.1):
            pass
        with record.locked("other"):
            pass
    with record.locked("flux"):
        assert (run_folder / "flux.lock").exists()


@pytest.mark.parametrize(
    ("supervisor", "leader", "power", "word"),
    [(1, 2, False, "running"), (1, None, False, "booting"), (1, None, True, "power cut"),
     (None, 2, False, "unattended"), (None, None, False, "off")],
)  # fmt: skip
def test_states(supervisor: int | None, leader: int | None, power: bool, word: str) -> None:
    assert status.machine_state(supervisor, leader, power) == word
