"""Why a station is offline: each cause is made for real, and the runbook has to name it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from system import LabSystem

STATION = "hmce"


@pytest.fixture(autouse=True)
def _station_in_order(flux: LabSystem) -> Iterator[None]:
    """Whatever a test did to the station, the next one finds everything at work."""
    yield
    flux.labctl("heal", check=False)
    flux.on_host(STATION, "systemctl", "start", "ssh.service", "device_simulator", "bess_controller")


def ask(flux: LabSystem, target: str = STATION) -> tuple[int, str]:
    play = flux.playbook("edge_offline", {"target": target})
    return play.code, " ".join(play.output.split())


def becomes(flux: LabSystem, words: str, timeout_s: float = 120) -> None:
    flux.wait(f"edge_offline says {words}", lambda: words in ask(flux)[1], timeout_s, interval_s=2)


def test_a_system_in_order_is_online_and_nothing_changes(flux: LabSystem) -> None:
    flux.wait("all stations are online", lambda: ask(flux, "stations")[0] == 0, timeout_s=120, interval_s=2)
    play = flux.playbook("edge_offline", {"target": "stations"}, "--check")
    assert (play.code, play.changed) == (0, {}), play.output[-5000:]


def test_a_controller_that_does_not_run(flux: LabSystem) -> None:
    flux.on_host(STATION, "systemctl", "stop", "bess_controller")
    code, output = ask(flux)
    assert code != 0
    assert "its controller is not running" in output


def test_devices_that_are_silent(flux: LabSystem) -> None:
    flux.on_host(STATION, "systemctl", "stop", "device_simulator")
    becomes(flux, "they are off, or the bus is cut")


def test_a_station_whose_sshd_is_gone_and_whose_rows_go_on(flux: LabSystem) -> None:
    flux.on_host(STATION, "systemctl", "stop", "ssh.socket", "ssh.service")
    code, output = ask(flux)
    assert code != 0
    assert "only the way in from this control node is blocked" in output


def test_a_station_that_is_dark(flux: LabSystem) -> None:
    flux.labctl("cut", STATION, "--for", "240", "--control")
    becomes(flux, "the whole site is dark", timeout_s=200)
    code, output = ask(flux, f"{STATION},wlce")
    assert code != 0
    assert "wlce ok the station is online" in output
