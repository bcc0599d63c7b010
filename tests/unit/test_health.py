"""Health of a host and of a system: silence is never health."""

from __future__ import annotations

import time
from collections.abc import Sequence

import pytest

from stationkeeper.health import host, summary

LIMITS = host.Limits()
GOOD = {"name": "disk", "state": "ok", "message": "/ has 71 % free"}
FRESH = {"name": "telemetry", "state": "ok", "message": "6 of 6 devices are fresh"}


@pytest.mark.parametrize(
    ("space", "state"),
    [
        (host.Space(100, 50, 0, 0), "ok"),
        (host.Space(100, 14, 0, 0), "degraded"),
        (host.Space(100, 4, 0, 0), "critical"),
        (host.Space(100, 50, 100, 4), "critical"),
        (host.Space(100, 50, 100, 60), "ok"),
        (host.Space(0, 0, 0, 0), "critical"),
    ],
)
def test_disk(space: host.Space, state: str) -> None:
    assert host.check_disk("/", space, LIMITS).state == state


@pytest.mark.parametrize(
    ("code", "output", "state"),
    [
        (0, "", "ok"),
        (0, "ssh.service loaded failed failed OpenBSD", "degraded"),
        (1, "Failed to connect to bus", "critical"),
    ],
)
def test_units(code: int, output: str, state: str) -> None:
    assert host.check_units(code, output).state == state


@pytest.mark.parametrize(
    ("offset", "synchronised", "state"),
    [
        (1, True, "ok"),
        (1, None, "ok"),
        (1, False, "degraded"),
        (-30, True, "degraded"),
        (7200, True, "critical"),
        (-7200, None, "critical"),
    ],
)
def test_clock(offset: float, synchronised: bool | None, state: str) -> None:
    assert host.check_clock(offset, synchronised, LIMITS).state == state


def test_host_that_cannot_run_anything_is_not_healthy() -> None:
    def broken(command: Sequence[str]) -> tuple[int, str]:
        return 127, f"{command[0]} not found"

    checks = host.check_host(["/", "/does/not/exist"], time.time(), LIMITS, broken)
    assert [check.state for check in checks if check.name == "disk"][1] == "critical"
    assert [check.state for check in checks if check.name == "units"] == ["critical"]
    assert [check.state for check in checks if check.name == "clock"] == ["degraded"]


def test_all_well() -> None:
    result = summary.summarise(["a"], {}, {"a": [GOOD]}, [FRESH])
    assert result.state == "ok"
    assert result.table()[0] == "OK: 2 ok"


@pytest.mark.parametrize(
    ("hosts", "unreachable", "checks", "system", "word"),
    [
        (["a", "b"], {}, {"a": [GOOD]}, [FRESH], "gave no answer"),
        (["a"], {"a": "no answer within 3 s"}, {"a": [GOOD]}, [FRESH], "no answer within 3 s"),
        (["a"], {}, {"a": [GOOD]}, [], "not looked at"),
        (["a"], {}, {"a": [{"name": "disk", "message": "?"}]}, [FRESH], "no usable state"),
        (["a"], {}, {"a": [{**GOOD, "state": "OK"}]}, [FRESH], "no usable state"),
        (["a"], {}, {"a": []}, [FRESH], "gave no answer"),
    ],
)
def test_silence_is_critical(
    hosts: list[str],
    unreachable: dict[str, str],
    checks: dict[str, list[dict[str, str]]],
    system: list[dict[str, str]],
    word: str,
) -> None:
    result = summary.summarise(hosts, unreachable, checks, system)
    assert result.state == "critical"
    assert word in "\n".join(result.table())


def test_one_silent_device_of_many_is_seen() -> None:
    silent = {"name": "telemetry", "state": "critical", "message": "LFCE-BESS-01 silent for 400 s"}
    result = summary.summarise(["a"], {}, {"a": [GOOD]}, [FRESH] * 199 + [silent])
    assert result.state == "critical"
    assert result.rows[0].message.startswith("LFCE-BESS-01")


def test_no_host_at_all_is_not_ok() -> None:
    assert summary.summarise([], {}, {}, []).state == "critical"


def test_degraded_outranks_ok_only() -> None:
    degraded = {**GOOD, "state": "degraded"}
    assert summary.summarise(["a"], {}, {"a": [degraded]}, [FRESH]).state == "degraded"
    assert summary.summarise(["a"], {}, {"a": [degraded]}, [FRESH]).of_host("a") == "degraded"
