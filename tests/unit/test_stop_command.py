"""``stationkeeper stop``, without Ansible and database, over simulated devices and a stand-in for ssh."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from modbus_rig import Rig
from stop_site import StopSite

WRITES = (5, 6, 15, 16, 22, 23)
REASON = ("--reason", "smoke")


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "served.jsonl")
    yield rig
    rig.close()


@pytest.fixture
def site(tmp_path: Path) -> StopSite:
    return StopSite(tmp_path)


@pytest.mark.criterion("ES-9", "ES-10", "ES-6")
def test_stop_from_the_bundle_alone_latches_proves_and_reports(site: StopSite, rig: Rig) -> None:
    site.add("a", rig.station())
    site.add("b", rig.station(power_kw=-30))
    site.write_bundle()
    done = site.stop("--target", "all", *REASON)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 stations are proven stopped" in done.stdout
    assert "not a certified safety function" in done.stdout
    for name in "ab":
        assert json.loads(site.latch(name).read_text())["reason"] == "smoke"
    report = site.report()
    assert report["all_stopped"]
    for station in report["stations"]:
        (device,) = station["evidence"]["devices"]
        assert device["first_write_at"] < device["verified_at"]
        assert station["evidence"]["latch"]["asked_at"] < station["evidence"]["latch"]["answered_at"]
    text = next((site.state / "stops").glob("*.txt")).read_text()
    assert "first zero write left" in text
    assert "latch stands" in text
    chain = (site.state / "audit/chain.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in chain][-2:] == ["START", "END"]

    again = site.stop("--target", "stations", *REASON)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {station["status"] for station in site.report()["stations"]} == {"unchanged"}


@pytest.mark.criterion("ES-8")
def test_check_prints_the_plan_and_writes_nothing(site: StopSite, rig: Rig) -> None:
    site.add("a", rig.station())
    site.add("dark", 1, ssh=False)
    site.write_bundle()
    before = set(site.state.rglob("*"))
    done = site.stop("--target", "all", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    for words in (
        "power_command_kw",
        "would be latched",
        "NOT latched, no ssh",
        "UNREACHABLE_DEADMAN_PENDING",
    ):
        assert words in done.stdout
    assert not site.latch("a").exists()
    assert set(site.state.rglob("*")) == before
    assert not [entry for entry in rig.served if entry["function"] in WRITES]


@pytest.mark.criterion("ES-1")
def test_without_ssh_the_order_waits_until_it_is_delivered(site: StopSite, rig: Rig) -> None:
    site.add("a", rig.station(), ssh=False)
    site.write_bundle()
    done = site.stop("--target", "a", *REASON)
    assert done.returncode == 1
    assert site.report()["stations"][0]["evidence"]["devices"][0]["state"] == "VERIFIED_ZERO"
    assert "+39 a" in done.stdout
    assert site.pending()["a"]["reason"] == "smoke"
    assert site.stop("--deliver-pending").returncode == 1, "the station is still away"
    site.connect("a")
    delivered = site.stop("--deliver-pending")
    assert delivered.returncode == 0, delivered.stdout + delivered.stderr
    assert json.loads(site.latch("a").read_text())["reason"] == "smoke"
    assert site.pending() == {}
    assert "No stop order waits" in site.stop("--deliver-pending").stdout


def test_modbus_that_only_the_station_reaches_is_stopped_from_there(site: StopSite, rig: Rig) -> None:
    port = rig.station()
    site.add("a", 1, local_port=port)
    site.write_bundle()
    done = site.stop("--target", "a", *REASON)
    assert done.returncode == 0, done.stdout + done.stderr
    (device,) = site.report()["stations"][0]["evidence"]["devices"]
    assert device["state"] == "VERIFIED_ZERO"
    assert "on the station itself" in device["message"]
    assert device["from_centre"]["state"] == "UNREACHABLE_DEADMAN_PENDING"
    assert [entry for entry in rig.served if entry.get("written") == [0, 0]]


def test_a_bus_that_is_down_everywhere_is_latched_and_never_called_stopped(site: StopSite) -> None:
    site.add("a", 1, local_port=1)
    site.write_bundle()
    done = site.stop("--target", "a", *REASON)
    assert done.returncode == 1
    (station,) = site.report()["stations"]
    assert not station["stopped"]
    (device,) = station["evidence"]["devices"]
    assert device["state"] == "UNREACHABLE_DEADMAN_PENDING"
    assert device["expected_zero_by"] > station["evidence"]["latch"]["answered_at"]
    assert site.latch("a").exists()
    assert site.pending() == {}, "the latch stands, so no order waits"


def test_both_down_is_unknown_with_the_expected_state_and_a_phone_number(site: StopSite, rig: Rig) -> None:
    site.add("a", rig.black_hole(), ssh=False)
    site.write_bundle()
    done = site.stop("--target", "a", *REASON, "--window-s", "1")
    assert done.returncode == 1
    (station,) = site.report()["stations"]
    (device,) = station["evidence"]["devices"]
    assert (device["state"], station["stopped"]) == ("UNKNOWN", False)
    assert "expected: it goes to 0 kW by itself" in device["message"]
    assert "Call:\n  a: +39 a" in done.stdout
    assert "a" in site.pending()


def test_stations_that_are_not_stopped_are_tried_again(site: StopSite, rig: Rig) -> None:
    site.add("a", rig.station(), ssh=False)
    site.write_bundle()
    done = site.stop("--target", "a", *REASON, "--keep-trying-s", "9")
    assert done.returncode == 1
    assert "again in 2 s" in done.stdout
    assert (site.hosts / "ssh.log").read_text().count("a sudo") >= 2


@pytest.mark.criterion("ES-9")
def test_a_disk_that_takes_no_latch_leaves_it_in_memory_and_an_order(site: StopSite, rig: Rig) -> None:
    site.add("a", rig.station())
    site.write_bundle()
    latch = site.latch("a").parent
    latch.rmdir()
    # Nobody, root included, can make a directory where a file stands.
    latch.write_text("")
    done = site.stop("--target", "a", *REASON)
    assert (site.hosts / "a/run/bess_controller/latch/emergency_stop.json").exists(), done.stdout
    assert "latched in memory only" in done.stdout
    assert "in memory only" in site.pending()["a"]["why"]
    latch.unlink()
    latch.mkdir()
    assert site.stop("--deliver-pending").returncode == 0
    assert site.latch("a").exists()
    assert site.pending() == {}


@pytest.mark.criterion("ES-10")
def test_a_chain_that_takes_nothing_and_a_state_directory_that_takes_nothing_stop_nothing(
    site: StopSite, rig: Rig, tmp_path: Path
) -> None:
    site.add("a", rig.station())
    bundle = site.write_bundle()
    bundle = bundle.rename(tmp_path / "bundle.json")
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = site.stop("--target", "a", *REASON, "--bundle", str(bundle), "--state", str(blocked / "state"))
    assert "1 of 1 stations are proven stopped" in done.stdout, done.stderr
    assert site.latch("a").exists()
    assert "the report is in" in done.stderr
    assert "wait in" in done.stderr, "the audit records are spooled"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--target", "all"), "needs a --reason"),
        ((*REASON,), "one of --target"),
        (("--target", "nobody", *REASON), "matches no station"),
        (("--target", "a,!a", *REASON), "selects no station"),
        (("--target", "a", *REASON, "--bundle", "/nowhere"), "there is no stop bundle"),
        (("--target", "a", *REASON, "--window-s", "nan"), "--window-s must be"),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    arguments: tuple[str, ...], words: str, site: StopSite
) -> None:
    site.add("a", 1)
    site.write_bundle()
    done = site.stop(*arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert not (site.hosts / "ssh.log").exists()
