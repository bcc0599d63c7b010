"""Emergency stop and release, seen by mbpoll, which shares no code with this repository."""

from __future__ import annotations

import json
import time

import pytest

from system import LabSystem

STATION = "wlce"
NOISE_KW = 1.0


def served_writes(flux: LabSystem, station: str) -> int:
    """Write requests that the station's devices have answered, by their own log."""
    log = flux.on_host(station, "cat", "/var/log/device_simulator/served.jsonl").stdout
    return sum(1 for line in log.splitlines() if json.loads(line)["function"] in {5, 6, 15, 16, 22, 23})


def writes_not_from(flux: LabSystem, station: str) -> int:
    """Write requests that came from elsewhere than the station itself, that is, from the control node."""
    log = flux.on_host(station, "cat", "/var/log/device_simulator/served.jsonl").stdout
    own = (flux.addresses[station], "127.0.0.1")
    return sum(
        1
        for line in map(json.loads, log.splitlines())
        if line["function"] in {5, 6, 15, 16, 22, 23} and line["client"].rsplit(":", 1)[0] not in own
    )


def latched(flux: LabSystem, station: str) -> bool:
    latch = "/var/lib/bess_controller/latch/emergency_stop.json"
    return flux.on_host(station, "test", "-e", latch, check=False).returncode == 0


def wait_for_power(flux: LabSystem) -> None:
    flux.wait("the battery is at work", lambda: abs(flux.power_kw(STATION)) > 5, timeout_s=90)


def test_preview_of_a_stop_writes_nothing(flux: LabSystem) -> None:
    wait_for_power(flux)
    before = writes_not_from(flux, STATION)
    play = flux.playbook("edge_emergency_stop", {"target": STATION}, "--check", "--diff")
    assert play.code == 0, play.output[-5000:]
    assert writes_not_from(flux, STATION) == before
    assert not latched(flux, STATION)
    assert abs(flux.power_kw(STATION)) > 5


def test_stop_needs_a_reason(flux: LabSystem) -> None:
    play = flux.playbook("edge_emergency_stop", {"target": STATION})
    assert play.code != 0
    assert "reason" in play.output
    assert not latched(flux, STATION)


def test_stop_is_proven_by_an_independent_client(flux: LabSystem) -> None:
    wait_for_power(flux)
    play = flux.playbook("edge_emergency_stop", {"target": STATION, "reason": "ring 4"})
    assert play.code == 0, play.output[-5000:]
    assert latched(flux, STATION)
    assert flux.mbpoll(STATION, 1, "holding", 0, 2) == [0, 0], "the set-point register is not zero"
    for unit in (1, 2):
        assert abs(flux.power_kw(STATION, unit)) <= NOISE_KW
    time.sleep(5)
    assert abs(flux.power_kw(STATION)) <= NOISE_KW, "the controller took the battery up again"


def test_second_stop_changes_nothing_and_still_verifies(flux: LabSystem) -> None:
    play = flux.playbook("edge_emergency_stop", {"target": STATION, "reason": "ring 4 again"})
    assert play.code == 0, play.output[-5000:]
    assert play.changed == {}, play.output
    assert "VERIFIED_ZERO" in play.output


def test_the_stop_survives_a_power_cut_of_the_station(flux: LabSystem) -> None:
    flux.labctl("power-cut", STATION, "--for", "3")
    flux.wait(
        "the station is back",
        lambda: (
            flux.on_host(STATION, "systemctl", "is-active", "bess_controller", check=False).stdout.strip()
            == "active"
        ),
        timeout_s=90,
    )
    time.sleep(5)
    assert latched(flux, STATION)
    assert abs(flux.power_kw(STATION)) <= NOISE_KW


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"target": STATION, "reason": "x"}, "confirm"),
        ({"target": STATION, "reason": "x", "confirm": "hmce"}, "confirm"),
        ({"target": STATION, "confirm": STATION}, "reason"),
    ],
)
def test_release_is_refused(flux: LabSystem, variables: dict[str, str], message: str) -> None:
    play = flux.playbook("edge_emergency_release", variables)
    assert play.code != 0
    assert message in play.output
    assert latched(flux, STATION)


def test_release(flux: LabSystem) -> None:
    play = flux.playbook(
        "edge_emergency_release", {"target": STATION, "confirm": STATION, "reason": "ring 4 is over"}
    )
    assert play.code == 0, play.output[-5000:]
    assert not latched(flux, STATION)
    wait_for_power(flux)


def test_release_of_a_station_that_is_not_stopped_is_refused(flux: LabSystem) -> None:
    play = flux.playbook("edge_emergency_release", {"target": STATION, "confirm": STATION, "reason": "twice"})
    assert play.code != 0
    assert "latch" in play.output


def test_an_unreachable_station_is_never_called_stopped(flux: LabSystem) -> None:
    flux.labctl("cut", "lfce", "--for", "60", "--control")
    try:
        play = flux.playbook("edge_emergency_stop", {"target": "wlce,lfce", "reason": "ring 4: one is dark"})
        assert play.code != 0
        assert "lfce" in play.output
        assert "UNKNOWN" in play.output or "UNREACHABLE" in play.output
        assert abs(flux.power_kw("wlce")) <= NOISE_KW, "the dark station kept the other from being stopped"
        pending = flux.run("stationkeeper", "runbooks", "pending").stdout
        assert "lfce" in pending
    finally:
        flux.labctl("heal", check=False)
    again = flux.playbook("edge_emergency_stop", {"target": "lfce", "reason": "ring 4: the light is back"})
    assert again.code == 0, again.output[-5000:]
    assert "lfce" not in flux.run("stationkeeper", "runbooks", "pending").stdout
    for station in ("wlce", "lfce"):
        released = flux.playbook(
            "edge_emergency_release", {"target": station, "confirm": station, "reason": "ring 4 is over"}
        )
        assert released.code == 0, released.output[-5000:]
