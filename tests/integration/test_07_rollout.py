"""Staged changes on real stations: tuned in waves, and a bad one stopped at the canary and put back.

What the stations do is asked of them by their own metrics and by mbpoll, past the runbooks.
"""

from __future__ import annotations

import json
import re
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from stationkeeper.station import wheelhouse
from system import ROOT, LabSystem, Play

CANARY, *LATER = STATIONS = ("hmce", "lfce", "wlce")
# Enough for a change that is good. What the watch finds is shown with the runbooks' own, longer times.
WATCH_S = 8
NOBODY_DOWN = "python3 -I /root/rollout_watch.py"
SLOW = "/run/crashing_version_is_slow"
LATCH = "/var/lib/bess_controller/latch/emergency_stop.json"
# Written to the host: each second the unit's state and the release that is in force.
WATCH = """
import pathlib, subprocess, time
command = ['systemctl', 'show', 'bess_controller', '-P', 'ActiveState']
while True:
    state = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    print(int(time.time()), state, pathlib.Path('/opt/stationkeeper/venv').resolve().name, flush=True)
    time.sleep(1)
"""
# The lab's hosts have no curl.
FETCH = (
    "import urllib.request as u; print(u.urlopen('http://127.0.0.1:9105/metrics', timeout=5).read().decode())"
)


def metrics(flux: LabSystem, station: str) -> str:
    return flux.on_host(station, "python3", "-c", FETCH).stdout


def config_hash(flux: LabSystem, station: str) -> str:
    found = re.search(r'^stationkeeper_config_info{.*hash="(\w+)"', metrics(flux, station), re.MULTILINE)
    assert found
    return found[1]


def override(flux: LabSystem, station: str) -> Any:
    return yaml.safe_load(flux.on_host(station, "cat", "/etc/bess_controller/override.yaml").stdout)


def release(flux: LabSystem, station: str, link: str) -> str:
    return flux.on_host(station, "readlink", link).stdout.strip().rsplit("/", 1)[-1]


def config_release(flux: LabSystem, station: str) -> str:
    return release(flux, station, "/etc/bess_controller/current")


def package_release(flux: LabSystem, station: str) -> str:
    return release(flux, station, "/opt/stationkeeper/venv")


def last_event(flux: LabSystem, station: str, kind: str) -> dict[str, Any]:
    journal = flux.on_host(station, "tail", "-n", "1", f"/var/lib/stationkeeper/releases/{kind}.jsonl").stdout
    return dict(json.loads(journal))


def state_of(flux: LabSystem, play: Play) -> dict[str, Any]:
    """The state of the rollout that a play has told of."""
    named = re.search(r"(edge_(?:tune|rollout)-[0-9a-f]{12})", play.output)
    assert named, play.output[-5000:]
    return dict(json.loads((flux.state / "rollouts" / f"{named[1]}.json").read_text()))


def foreign_writes(flux: LabSystem) -> int:
    """Write requests to all stations' devices that came from elsewhere than the station itself."""
    count = 0
    for station in STATIONS:
        log = flux.on_host(station, "cat", "/var/log/device_simulator/served.jsonl").stdout
        own = (flux.addresses[station], "127.0.0.1")
        count += sum(
            1
            for entry in map(json.loads, log.splitlines())
            if entry.get("function") in {5, 6, 15, 16, 22, 23}
            and entry["client"].rsplit(":", 1)[0] not in own
        )
    return count


def in_charge(flux: LabSystem, station: str) -> bool:
    """Whether the controller runs and both devices move on, by their heartbeats as mbpoll reads them."""
    active = flux.on_host(station, "systemctl", "is-active", "bess_controller", check=False).stdout.strip()
    before = [flux.mbpoll(station, unit, "input", 0, 2) for unit in (1, 2)]
    fed = flux.on_host(station, "systemctl", "show", "-P", "StatusText", "bess_controller").stdout
    after = [flux.mbpoll(station, unit, "input", 0, 2) for unit in (1, 2)]
    return active == "active" and "kW by" in fed and all(a != b for a, b in zip(before, after, strict=True))


@contextmanager
def watched(flux: LabSystem, station: str) -> Iterator[list[tuple[int, str, str]]]:
    """Note the controller's state each second, on the station itself; the list is full after the block."""
    seen: list[tuple[int, str, str]] = []
    log = f"/root/rollout_watch-{uuid.uuid4().hex[:8]}.log"
    command = f"cat > /root/rollout_watch.py <<'EOF'\n{WATCH}\nEOF"
    flux.on_host(station, "sh", "-c", command)
    unit = ["systemd-run", "--unit=rollout_watch", f"--property=StandardOutput=file:{log}"]
    flux.on_host(station, *unit, *NOBODY_DOWN.split())
    try:
        yield seen
    finally:
        flux.on_host(station, "systemctl", "stop", "rollout_watch")
        for line in flux.on_host(station, "cat", log).stdout.splitlines():
            moment, state, package = line.split()
            seen.append((int(moment), state, package))


@pytest.fixture(scope="module", autouse=True)
def _as_it_was(flux: LabSystem) -> Iterator[None]:
    """Leave the stations as they were converged."""
    yield
    flux.on_host(CANARY, "rm", "-f", LATCH)
    play = flux.playbook(
        "edge_tune",
        {
            "target": "all",
            "reason": "ring 4 is over",
            "clear": ["batch_size"],
            "settings": {"metrics": None},
            "watch_s": WATCH_S,
        },
    )
    assert play.code == 0, play.output[-5000:]


def test_previews_write_nothing(flux: LabSystem) -> None:
    before = {station: config_release(flux, station) for station in STATIONS}
    packages = {station: package_release(flux, station) for station in STATIONS}
    writes = foreign_writes(flux)
    for name, variables in (
        ("edge_tune", {"target": "all", "batch_size": 150}),
        ("edge_rollout", {"target": "all"}),
        ("edge_config_backup", {"target": "all"}),
    ):
        play = flux.playbook(name, variables, "--check", "--diff")
        assert play.code == 0, play.output[-5000:]
    assert foreign_writes(flux) == writes
    assert {station: config_release(flux, station) for station in STATIONS} == before
    assert {station: package_release(flux, station) for station in STATIONS} == packages
    assert not (flux.state / "backups").exists()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"reason": "x"}, "nothing to tune"),
        ({"reason": "x", "poll_interval": "5"}, "number with its unit"),
        ({"reason": "x", "batch_size": 150, "canary": "fluxdb"}, "no reachable target"),
        ({"batch_size": 150}, "needs a reason"),
    ],
)
def test_nonsense_is_refused_before_any_station(
    flux: LabSystem, variables: dict[str, Any], message: str
) -> None:
    play = flux.playbook("edge_tune", {"target": "all", **variables})
    assert play.code != 0
    assert message in " ".join(play.output.split())
    assert not any(station in play.recap for station in STATIONS)


def test_tuning_reaches_every_station_and_a_second_run_changes_nothing(flux: LabSystem) -> None:
    before = {station: config_hash(flux, station) for station in STATIONS}
    variables = {"target": "all", "reason": "ring 4", "batch_size": 150, "canary": CANARY, "wave_size": 2}
    variables |= {"watch_s": WATCH_S}
    play = flux.playbook("edge_tune", variables)
    assert play.code == 0, play.output[-5000:]
    state = state_of(flux, play)
    assert state["state"] == "done"
    assert state["waves"][0] == [CANARY]
    for station in STATIONS:
        assert override(flux, station) == {"data_platform": {"upload": {"batch_size": 150}}}
        assert config_hash(flux, station) != before[station], "the controller itself does not tell the change"
        assert last_event(flux, station, "config")["event"] == "proven"
        assert in_charge(flux, station)
    again = flux.playbook("edge_tune", variables)
    assert again.code == 0, again.output[-5000:]
    assert again.changed == {}


def test_the_next_converge_keeps_the_override(flux: LabSystem) -> None:
    play = flux.playbook("site", None, "--limit", f"localhost,{CANARY}")
    assert play.code == 0, play.output[-5000:]
    assert override(flux, CANARY) == {"data_platform": {"upload": {"batch_size": 150}}}


@pytest.mark.criterion("ES-5")
def test_a_bad_configuration_is_stopped_at_the_canary_and_put_back(flux: LabSystem) -> None:
    before = {station: config_release(flux, station) for station in STATIONS}
    hashes = {station: config_hash(flux, station) for station in STATIONS}
    command = [
        "/opt/stationkeeper/venv/bin/stationkeeper",
        "controller",
        "latch",
        "set",
        "--reason",
        "ring 4",
    ]
    flux.on_host(CANARY, *command)
    latch = flux.on_host(CANARY, "cat", LATCH).stdout
    # Valid by every schema, and the controller's metrics are where nobody looks for them.
    variables = {"target": "all", "reason": "bad on purpose", "settings": {"metrics": {"port": 9999}}}
    play = flux.playbook("edge_tune", {**variables, "canary": CANARY, "wave_size": 1})
    assert play.code != 0
    assert "Rolled back" in play.output
    assert "metrics do not answer" in last_event(flux, CANARY, "config")["reason"]
    assert last_event(flux, CANARY, "config")["event"] == "rolled_back"
    state = state_of(flux, play)
    assert state["state"] == "stopped"
    assert {host: entry["status"] for host, entry in state["hosts"].items()} == {
        CANARY: "failed",
        **dict.fromkeys(LATER, "not_attempted"),
    }
    assert {station: config_release(flux, station) for station in STATIONS} == before
    assert {station: config_hash(flux, station) for station in STATIONS} == hashes
    assert flux.on_host(CANARY, "cat", LATCH).stdout == latch, "the latch did not survive"
    assert abs(flux.power_kw(CANARY)) <= 1
    flux.on_host(CANARY, "rm", LATCH)
    assert all(in_charge(flux, station) for station in STATIONS)


def test_an_invalid_configuration_never_gets_as_far_as_a_switch(flux: LabSystem) -> None:
    before = config_release(flux, CANARY)
    variables = {
        "target": CANARY,
        "reason": "bad on purpose",
        "settings": {"controller": {"pol_interval": "1s"}},
    }
    play = flux.playbook("edge_tune", variables)
    assert play.code != 0
    assert "Refused, nothing was switched" in play.output
    assert "poll_interval" in play.output, "the refusal does not name the key that was meant"
    assert config_release(flux, CANARY) == before


@pytest.fixture(scope="module")
def crashing_version(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A version of the package, in the control node's cache, whose controller ends 20 s after its start.

    Where the file SLOW exists, which does not outlive a power cut, it ends after an hour.
    """
    repository = tmp_path_factory.mktemp("crashing")
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, repository)
    for name in ("requirements", "src"):
        shutil.copytree(ROOT / name, repository / name, ignore=shutil.ignore_patterns("__pycache__"))
    service = repository / "src" / "stationkeeper" / "controller" / "service.py"
    text = service.read_text()
    hook = "        watch = asyncio.create_task(self._watch())\n"
    assert text.count(hook) == 1
    crash = (
        f"        after_s = 3600 if __import__('os').path.exists('{SLOW}') else 20\n"
        "        asyncio.get_running_loop().call_later(after_s, lambda: __import__('os')._exit(70))\n"
    )
    service.write_text(text.replace(hook, hook + crash))
    cache = Path(ROOT) / ".cache" / "wheelhouse"
    return wheelhouse.ensure(repository, cache, "3.13", "x86_64").content_id


def test_a_controller_that_crashes_after_20_s_is_put_back_and_no_station_is_without_one(
    flux: LabSystem, crashing_version: str
) -> None:
    before = {station: package_release(flux, station) for station in STATIONS}
    assert crashing_version not in before.values()
    variables = {"target": "all", "canary": CANARY, "version": crashing_version, "reason": "bad on purpose"}
    with watched(flux, CANARY) as seen:
        play = flux.playbook("edge_rollout", variables)
        assert play.code != 0
        assert "Rolled back" in play.output
        assert all(in_charge(flux, station) for station in STATIONS)
    event = last_event(flux, CANARY, "package")
    assert event["event"] == "rolled_back"
    assert "ended by itself" in event["reason"]
    state = state_of(flux, play)
    assert [state["hosts"][station]["status"] for station in STATIONS] == [
        "failed",
        "not_attempted",
        "not_attempted",
    ]
    assert {station: package_release(flux, station) for station in STATIONS} == before
    assert any(package == crashing_version for _, _, package in seen), "the bad version was never in force"
    # Two starts, each the time that a controller takes; the rest of the time there is one.
    down = sum(1 for _, active, _ in seen if active not in ("active", "reloading"))
    assert down <= 0.2 * len(seen), seen
    assert seen[-1][1:] == ("active", before[CANARY])


def test_a_power_cut_within_the_trial_leaves_the_way_back_to_the_station_itself(
    flux: LabSystem, crashing_version: str
) -> None:
    before = package_release(flux, CANARY)

    def cut() -> None:
        marker = ["test", "-e", "/var/lib/stationkeeper/releases/package.trial.json"]
        flux.wait(
            "the trial", lambda: flux.on_host(CANARY, *marker, check=False).returncode == 0, timeout_s=240
        )
        flux.wait("the new version", lambda: package_release(flux, CANARY) == crashing_version, timeout_s=60)
        flux.wait("the new version's controller", lambda: in_charge(flux, CANARY), timeout_s=120)
        flux.labctl("power-cut", CANARY, "--for", "3")

    # However slow or fast this machine is: the power goes while the trial is watched, and before the crash.
    flux.on_host(CANARY, "touch", SLOW)
    cutter = threading.Thread(target=cut)
    cutter.start()
    variables = {
        "target": CANARY,
        "version": crashing_version,
        "watch_s": 600,
        "reason": "the power goes on purpose",
    }
    play = flux.playbook("edge_rollout", variables)
    cutter.join()
    assert play.code != 0
    link = ["readlink", "/opt/stationkeeper/venv"]
    flux.wait(
        "the station has put the version before back by itself",
        lambda: flux.on_host(CANARY, *link, check=False).stdout.strip().endswith(before),
        timeout_s=240,
    )
    assert "never passed the health gate" in last_event(flux, CANARY, "package")["reason"]
    flux.wait("the controller is in charge", lambda: in_charge(flux, CANARY), timeout_s=60)


def test_the_same_call_with_a_good_version_verifies_and_changes_nothing(flux: LabSystem) -> None:
    release_before, event = package_release(flux, CANARY), last_event(flux, CANARY, "package")
    play = flux.playbook("edge_rollout", {"target": CANARY, "reason": "ring 4"})
    assert play.code == 0, play.output[-5000:]
    assert "is in force already" in play.output
    # The run that the power cut ended may have left its lock behind. Taking it over is told as a change.
    run = re.search(r"Run ([0-9a-f-]{36}), started", play.output)
    assert run, play.output[-5000:]
    records = flux.run("stationkeeper", "audit", "show", "--run", run[1]).stdout.splitlines()
    assert [line for line in records if " CHANGE " in line and "Take the lock" not in line] == []
    assert package_release(flux, CANARY) == release_before
    assert last_event(flux, CANARY, "package") == event


def test_a_backup_is_whole_holds_no_secret_and_is_not_made_twice(flux: LabSystem) -> None:
    play = flux.playbook("edge_config_backup", {"target": "all"})
    assert play.code == 0, play.output[-5000:]
    archives = {station: list((flux.state / "backups" / station).glob("*.tar.gz")) for station in STATIONS}
    for station, (archive,) in archives.items():
        flux.run("sha256sum", "--check", f"{archive}.sha256", check=False)
        listed = flux.run("tar", "--list", "--file", archive).stdout.split()
        assert {"manifest.json", "files/config.yaml", "files/override.yaml"} <= set(listed), station
        assert not any("database" in name for name in listed)
    again = flux.playbook("edge_config_backup", {"target": "all"})
    assert again.code == 0, again.output[-5000:]
    assert {
        station: list((flux.state / "backups" / station).glob("*.tar.gz")) for station in STATIONS
    } == archives


def test_a_restore_needs_a_confirmation_and_brings_the_backup_back(flux: LabSystem) -> None:
    kept, before = config_release(flux, CANARY), override(flux, CANARY)
    variables = {"target": CANARY, "reason": "ring 4", "watch_s": WATCH_S}
    tuned = flux.playbook("edge_tune", {**variables, "batch_size": 175})
    assert tuned.code == 0, tuned.output[-5000:]
    refused = flux.playbook("edge_config_restore", variables)
    assert refused.code != 0
    assert "confirm" in refused.output
    writes = foreign_writes(flux)
    preview = flux.playbook("edge_config_restore", variables, "--check", "--diff")
    assert preview.code == 0, preview.output[-5000:]
    assert "-    batch_size: 175" in preview.output
    assert config_release(flux, CANARY) != kept
    restored = flux.playbook("edge_config_restore", {**variables, "confirm": CANARY})
    assert restored.code == 0, restored.output[-5000:]
    assert foreign_writes(flux) == writes
    assert config_release(flux, CANARY) == kept
    assert override(flux, CANARY) == before
    assert in_charge(flux, CANARY)
    again = flux.playbook("edge_config_restore", {**variables, "confirm": CANARY})
    assert again.code == 0, again.output[-5000:]
    assert again.changed == {}
