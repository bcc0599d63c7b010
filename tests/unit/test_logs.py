"""What journals tell: which entries are errors and of one kind, what is never shown, how long cycles took."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from module_runner import run_module

from stationkeeper.audit.redact import Redactor
from stationkeeper.logs.cycles import devices
from stationkeeper.logs.errors import grouped, is_error, shape


def entry(message: Any, priority: int = 6, unit: str = "a.service", second: int = 0) -> str:
    moment = str((1_795_000_000 + second) * 1_000_000)
    fields = {"MESSAGE": message, "PRIORITY": str(priority), "_SYSTEMD_UNIT": unit}
    return json.dumps(fields | {"__REALTIME_TIMESTAMP": moment})


@pytest.mark.parametrize(
    ("priority", "message", "wanted"),
    [
        ("3", "anything", True),
        ("4", "a warning", False),
        ("6", "ERROR stationkeeper.upload: refused", True),
        ("6", "2026-11-22 14:00:00.123 UTC [412] flux@flux ERROR:  duplicate key", True),
        ("6", "ts=2026-11-22T14:00:00Z level=error msg=refused", True),
        ("6", "INFO stationkeeper.upload: no ERROR since noon, and it goes on", False),
        ("6", "0 errors found", False),
        ("", "kernel", False),
    ],
)
def test_what_is_an_error(priority: str, message: str, wanted: bool) -> None:
    assert is_error(priority, message) == wanted


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("device 7 silent for 3.5 s", "device 12 silent for 61 s"),
        (
            "run 0b0e6b3a-5d0f-4a9e-9a55-2f1d3c4b5a69 failed",
            "run 7c0e6b3a-5d0f-4a9e-9a55-2f1d3c4b5a60 failed",
        ),
        ("at 2026-11-22T14:00:00Z: 10.0.0.1 refused", "at 2026-11-23T15:01:02.5+01:00: 10.0.0.22 refused"),
        ("hash deadbeef00112233 is wrong\nmore", "hash 0011223344aabbcc is wrong\nother"),
    ],
)
def test_what_differs_in_numbers_alone_is_of_one_kind(one: str, other: str) -> None:
    assert shape(one) == shape(other)
    assert shape(one) != shape("another message")


def test_errors_are_counted_by_kind_and_the_newest_is_shown() -> None:
    lines = [
        entry("ERROR device 1 silent", second=0),
        entry("INFO device 1 is back", second=1),
        entry("ERROR device 2 silent", second=2),
        entry("ERROR device 2 silent", unit="b.service", second=3),
        entry(list(b"no text: \xff"), 3, second=4),
        entry(None, 3, second=5),
        "{cut short",
    ]
    found = grouped(lines, Redactor())
    assert [(one.unit, one.count, one.message) for one in found] == [
        ("a.service", 2, "ERROR device 2 silent"),
        ("a.service", 1, "(too long for the journal's own answer)"),
        ("a.service", 1, "no text: \ufffd"),
        ("b.service", 1, "ERROR device 2 silent"),
        ("journal", 1, "a line of the journal cannot be read"),
    ]
    assert (found[0].first, found[0].last) == ("2026-11-18T11:06:40+00:00", "2026-11-18T11:06:42+00:00")


def test_secrets_are_masked() -> None:
    lines = [
        entry("ERROR login as flux with hunter2-hunter2 failed"),
        entry("ERROR password=swordfish9 refused"),
    ]
    told = " ".join(one.message for one in grouped(lines, Redactor(["hunter2-hunter2"])))
    assert "hunter2" not in told
    assert "swordfish9" not in told


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journalctl that shows a file, and keeps how it was asked."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "journalctl"
    program.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\ncat {tmp_path}/journal\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return tmp_path / "journal"


def test_the_module(tmp_path: Path, journal: Path) -> None:
    journal.write_text(
        "\n".join([entry(f"ERROR device {n} silent") for n in range(5)] + [entry("x", 3)]) + "\n"
    )
    found = run_module(tmp_path, "journal_errors", {"hours": 2, "units": ["a.service"], "limit": 1})
    assert (found["errors"], found["kinds"], found["changed"]) == (6, 2, False)
    assert [one["count"] for one in found["groups"]] == [5]
    asked = (tmp_path / "asked").read_text()
    assert "--since=-7200s" in asked
    assert "--unit=a.service" in asked


def test_a_journal_that_cannot_be_read_is_no_journal_without_errors(tmp_path: Path, journal: Path) -> None:
    refused = run_module(tmp_path, "journal_errors", {"hours": 1})
    assert "the journal cannot be read" in refused["msg"]
    assert "No such file" in refused["msg"]
    assert "hours is more than 0" in run_module(tmp_path, "journal_errors", {"hours": 0})["msg"]


def test_cycles_are_added_up_and_a_slow_one_is_told() -> None:
    said = "INFO stationkeeper.controller.service: {}: cycle_time mean={}s max={}s cycles={}"
    lines = [
        entry(said.format("B", "0.010", "0.020", 30), second=0),
        entry(said.format("B", "0.040", "2.500", 10), second=60),
        entry(said.format("M", "0.005", "0.006", 30), second=60),
        entry("something else", second=61),
    ]
    battery, meter, silent = (one.as_dict() for one in devices(lines, {"B": 2, "M": 2, "S": 2}))
    assert (battery["cycles"], battery["mean_s"], battery["max_s"]) == (40, 0.0175, 2.5)
    assert (battery["slow"], battery["slowest_at"]) == (True, "2026-11-18T11:07:40+00:00")
    assert (meter["slow"], meter["max_s"]) == (False, 0.006)
    assert (silent["cycles"], silent["slow"]) == (0, False)


def test_the_module_of_cycles(tmp_path: Path, journal: Path) -> None:
    journal.write_text(entry("INFO x: B: cycle_time mean=0.1s max=0.2s cycles=3") + "\n")
    found = run_module(tmp_path, "journal_cycle_time", {"hours": 1, "cadences": {"B": 2}})
    assert [(one["device"], one["cycles"], one["slow"]) for one in found["devices"]] == [("B", 3, False)]
    assert "--unit=bess_controller.service" in (tmp_path / "asked").read_text()
