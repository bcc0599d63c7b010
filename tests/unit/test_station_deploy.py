"""Deployments on a station with a real controller and real devices as processes; only systemd is played."""

from __future__ import annotations

import grp
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml
from controller_process import Station, wait_until

from free_port import free_port
from stationkeeper.controller.latch import read_latch, set_latch
from stationkeeper.station import config_release, controlled, deploy, gate, release, service, status, trial
from stationkeeper.station.config_release import Content

GROUP = grp.getgrgid(os.getgid()).gr_name
DEVICES = ("B1", "M1")


class Systemd:
    """Reloads and restarts the controller's process, and starts it anew when it has ended by itself."""

    def __init__(self, station: Station, package: Path) -> None:
        self.station = station
        self.package = package
        self.calls: list[str] = []
        self.restarts = 0
        self.dead = False

    def run(self, command: Sequence[str]) -> tuple[int, str]:
        """Do what systemctl or the package's checker is asked for."""
        if command[0] != "systemctl":
            return service.ask(command)
        self.calls.append(command[1])
        if command[1] == "reload":
            self.station.reload()
        else:
            self.station.stop_controller()
            self.station.start_controller()
            wait_until(lambda: self.station.metric("config_valid") is not None, "the controller's start")
        return 0, ""

    def see(self, _unit: str, url: str) -> gate.Sight:
        """Look as `gate.see` does."""
        process = self.station.controller
        assert process is not None
        if process.poll() is not None:
            self.restarts += 1
            self.station.start_controller()
        pid = self.station.controller.pid if self.station.controller else 0
        installed = (self.package / "venv").resolve().name
        active = "inactive" if self.dead else "active"
        unit = service.Service(True, active, True, False, self.restarts, installed, installed, 10.0, pid)
        return gate.Sight(time.time(), time.monotonic(), unit, status.fetch(url))


class Site:
    """A running station with its configuration released, ready for the next one."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.process = Station(directory / "site")
        self.package = directory / "opt"
        program = self.package / "venv" / "bin" / "stationkeeper"
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {sys.executable} -m stationkeeper.cli "$@"\n')
        program.chmod(0o755)
        self.station = deploy.Station(self.process.etc, self.package, directory / "journal")
        self.slot = self.station.slot(controlled.CONFIG)
        self.systemd = Systemd(self.process, self.package)
        monkeypatch.setattr(gate, "see", self.systemd.see)

    def start(self) -> None:
        """Start devices and controller, and wait for the first sample."""
        self.process.start_simulator()
        self.process.start_controller()
        wait_until(lambda: self.process.metric("last_sample_timestamp_seconds", device="M1"), "a sample")

    def content(self, override: str | None = None, **changes: object) -> Content:
        """The present configuration with changes to its top level."""
        present = config_release.read(self.process.etc)
        assert present is not None
        document = yaml.safe_load(present.config) | changes
        return config_release.complete(self.process.etc, present, yaml.safe_dump(document), override, None)

    def deploy(self, wanted: Content, *, dry_run: bool = False, settle_s: float = 60) -> deploy.Deployed:
        """Deploy as the module does."""
        controller = controlled.Controller(
            "bess_controller.service",
            f"http://127.0.0.1:{self.process.metrics_port}/metrics",
            DEVICES,
            gate.Times(2, settle_s),
            "run-1",
            run=self.systemd.run,
            sleep=lambda _: time.sleep(0.1),
        )
        return deploy.deploy_config(self.station, wanted, controller, group=GROUP, keep=3, dry_run=dry_run)

    @property
    def in_force(self) -> str:
        """The release that the link names."""
        return (self.process.etc / "current").resolve().name

    def devices(self, **modbus: object) -> dict[str, object]:
        """The devices with other Modbus settings of the battery."""
        devices = json.loads(json.dumps(self.process.config["devices"]))
        devices["bess"][0]["modbus"] |= modbus
        return devices  # type: ignore[no-any-return]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    made = Site(tmp_path, monkeypatch)
    try:
        made.start()
        yield made
    finally:
        made.process.end()


def test_a_good_configuration_is_proven_by_the_controller_itself(site: Site) -> None:
    wanted = site.content(controller={"poll_interval": "200ms"})
    previewed = site.deploy(wanted, dry_run=True)
    assert previewed.changed
    assert not (site.process.etc / "current").exists()
    done = site.deploy(wanted)
    assert done.changed
    assert site.in_force == wanted.identity
    assert site.process.metric("config_info", hash=done.evidence["config_hash"]) == 1
    assert site.systemd.calls == ["reload"]
    assert trial.history(site.slot)[-1]["event"] == "proven"
    again = site.deploy(wanted)
    assert not again.changed
    assert site.systemd.calls == ["reload"]


def test_what_a_reload_cannot_take_up_restarts_the_controller(site: Site) -> None:
    wanted = site.content(data_platform={"buffer": {"max_rows": 1000}})
    assert site.deploy(wanted).changed
    assert site.systemd.calls == ["restart"]


def test_an_invalid_configuration_is_refused_before_the_switch(site: Site) -> None:
    with pytest.raises(controlled.SwitchError, match="pol_interval") as refused:
        site.deploy(site.content("controller: {pol_interval: 1s}\n"))
    assert refused.value.as_dict()["rolled_back"] is False
    assert "not valid: override.yaml: controller" in refused.value.reason
    assert not (site.process.etc / "releases").exists()
    assert site.systemd.calls == []


@pytest.mark.criterion("ES-5")
def test_a_bad_configuration_is_put_back_and_the_latch_stays(site: Site) -> None:
    good = site.content(controller={"poll_interval": "200ms"})
    site.deploy(good)
    set_latch(
        reason="test", who="t", id="1", directory=site.process.var / "latch", fallback=site.process.run_dir
    )
    bad = site.content(devices=site.devices(port=free_port()))
    with pytest.raises(controlled.SwitchError) as put_back:
        site.deploy(bad)
    failure = put_back.value.as_dict()
    assert failure["rolled_back"] is True
    assert failure["in_charge"] is True, failure["msg"]
    assert "B1 has given no sample" in failure["reason"] or "failed exchanges" in failure["reason"]
    assert site.in_force == good.identity
    assert config_release.read(site.process.etc) == good
    last = trial.history(site.slot)[-1]
    assert (last["event"], last["run_id"]) == ("rolled_back", "run-1")
    assert last["reason"] == failure["reason"]
    latch = read_latch(site.process.var / "latch", site.process.run_dir)
    assert latch.latched
    assert site.process.metric("emergency_stop_latched") == 1


def test_a_controller_that_crashes_with_the_new_configuration_is_put_back(site: Site) -> None:
    good = site.content(controller={"poll_interval": "200ms"})
    site.deploy(good)
    seen = site.systemd.see
    looks = 0

    def crash_once(unit: str, url: str) -> gate.Sight:
        nonlocal looks
        looks += 1
        if looks == 6:
            site.process.kill_controller()
        return seen(unit, url)

    gate.see = crash_once  # the fixture puts the original back
    with pytest.raises(controlled.SwitchError, match="ended by itself") as put_back:
        site.deploy(site.content(controller={"poll_interval": "300ms"}))
    assert put_back.value.in_charge is True
    assert site.in_force == good.identity


def test_the_end_of_the_watching_run_puts_the_release_back(site: Site) -> None:
    good = site.content(controller={"poll_interval": "200ms"})
    site.deploy(good)
    seen, looks = site.systemd.see, 0

    def terminated(unit: str, url: str) -> gate.Sight:
        nonlocal looks
        looks += 1
        if looks == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return seen(unit, url)

    gate.see = terminated
    with pytest.raises(controlled.SwitchError, match="SIGTERM"):
        site.deploy(site.content(controller={"poll_interval": "300ms"}))
    assert site.in_force == good.identity
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_interrupted_trial_is_watched_by_the_next_run(site: Site) -> None:
    good = site.content(controller={"poll_interval": "200ms"})
    site.deploy(good)
    other = site.content(controller={"poll_interval": "250ms"})
    config_release.prepare(site.process.etc, other, GROUP)
    trial.begin(site.slot, f"releases/{other.identity}", "run-0")
    trial.point(site.slot.link, f"releases/{other.identity}")  # and then the power went
    assert site.deploy(other, dry_run=True).changed
    done = site.deploy(other)
    assert done.changed
    assert done.evidence["before"] == f"releases/{good.identity}"
    assert trial.pending(site.slot) is None
    assert not site.deploy(other).changed


def test_a_station_without_a_running_controller_is_just_configured(site: Site) -> None:
    site.systemd.dead = True
    wanted = site.content(controller={"poll_interval": "200ms"})
    assert site.deploy(wanted).evidence["watched_s"] == 0
    assert site.systemd.calls == []
    assert site.in_force == wanted.identity
    assert trial.pending(site.slot) is None


def test_an_override_edited_on_the_station_survives_the_next_release(site: Site) -> None:
    site.deploy(site.content(controller={"poll_interval": "200ms"}))
    (site.process.etc / "override.yaml").write_text("controller: {poll_interval: 400ms}\n")
    site.deploy(site.content(logging={"level": "debug"}))
    assert site.process.metric("poll_interval_seconds") == 0.4
    assert "400ms" in (site.process.etc / "override.yaml").read_text()


def test_a_package_that_refuses_the_configuration_is_not_switched_in(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = site.package / "releases" / "bbbbbbbbbbbb"

    def build(_root: Path, _archive: Path, _identity: str) -> None:
        (new / "bin").mkdir(parents=True)
        (new / "bin" / "stationkeeper").write_text("#!/bin/sh\necho 'site: unknown key' >&2\nexit 1\n")
        (new / "bin" / "stationkeeper").chmod(0o755)

    monkeypatch.setattr(release, "installed", lambda _root: "aaaaaaaaaaaa")
    monkeypatch.setattr(release, "prepare", build)
    controller = controlled.Controller("u", "", (), gate.Times(1, 1), "run", run=site.systemd.run)
    with pytest.raises(controlled.SwitchError, match="unknown key"):
        deploy.deploy_package(site.station, Path("a.tar"), "bbbbbbbbbbbb", controller, dry_run=False)
    assert not (site.package / "venv").is_symlink()
    assert site.systemd.calls == []
