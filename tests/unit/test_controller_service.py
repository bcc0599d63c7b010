"""The whole controller against the simulated devices and a real database."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from controller_process import NAMES, Station, wait_until
from postgres_cluster import PostgresCluster
from small_disk import fill

from stationkeeper.controller.store import Store
from stationkeeper.database.connection import connect

TABLES = """
CREATE SCHEMA flux;
CREATE TABLE flux.mg_bess_readings (time timestamptz, device_id uuid, boot_id uuid, seq bigint,
  heartbeat bigint, power_kw float8, setpoint_kw float8, soe_percent float8, voltage_v float8,
  frequency_hz float8, temperature_c float8, status int, alarms bigint, time_quality text,
  PRIMARY KEY (device_id, time));
CREATE TABLE flux.mg_meter_readings (time timestamptz, device_id uuid, boot_id uuid, seq bigint,
  heartbeat bigint, power_kw float8, voltage_v float8, frequency_hz float8,
  energy_import_kwh float8, energy_export_kwh float8, time_quality text, PRIMARY KEY (device_id, time));
"""
STORED = """
SELECT device_id::text, boot_id::text, seq, heartbeat FROM flux.mg_bess_readings
UNION ALL SELECT device_id::text, boot_id::text, seq, heartbeat FROM flux.mg_meter_readings
"""


@pytest.fixture
def station(tmp_path: Path) -> Iterator[Station]:
    made = Station(tmp_path)
    made.start_simulator()
    yield made
    made.end()


def stored_rows(settings: dict[str, Any]) -> list[tuple[str, str, int, int]]:
    connection = connect(settings)
    with connection.cursor() as cursor:
        cursor.execute(STORED)
        rows = cursor.fetchall()
    connection.close()
    return rows


@pytest.mark.criterion("CT-5", "CT-6")
def test_stored_equals_served_through_an_outage_and_a_kill(
    station: Station, private_postgres: PostgresCluster
) -> None:
    settings = private_postgres.create_database()
    connection = connect(settings)
    connection.cursor().execute(TABLES)
    connection.commit()
    connection.close()
    station.use_database(settings)
    station.start_controller()
    wait_until(lambda: len(stored_rows(settings)) > 6, "first rows in the database")
    private_postgres.stop()
    wait_until(lambda: (station.metric("buffer_rows") or 0) > 10, "rows that wait")
    station.kill_controller()
    station.start_controller()
    wait_until(lambda: (station.metric("buffer_rows") or 0) > 16, "more rows that wait")
    waiting = json.loads(station.call("status").stdout)["buffer"]
    assert waiting["rows"] > 16
    assert waiting["oldest"] is not None
    private_postgres.start()
    wait_until(lambda: station.metric("buffer_rows") == 0, "an empty buffer")
    assert station.stop_controller() == 0
    # What was sampled during the stop waits in the store; one more start brings it.
    (station.etc / "override.yaml").write_text("controller: {poll_interval: 1h}")
    station.start_controller()
    wait_until(lambda: (station.metric("rows_uploaded_total") or 0) >= 2, "the last rows")
    wait_until(lambda: station.metric("buffer_rows") == 0, "an empty buffer")
    assert station.stop_controller() == 0

    rows = stored_rows(settings)
    stored = Counter((NAMES[device], heartbeat) for device, _, _, heartbeat in rows)
    served = Counter(station.served_samples())
    assert max(stored.values()) == 1
    assert stored - served == Counter(), "invented rows"
    # An answer can be on the wire at the very moment of the kill: at most one for each device.
    lost = served - stored
    assert all(count <= 1 for count in Counter(device for device, _ in lost).values()), lost
    boots = {boot for _, boot, _, _ in rows}
    assert len(boots) == 3
    for device in NAMES:
        for boot in boots:
            seqs = sorted(seq for d, b, seq, _ in rows if (d, b) == (device, boot))
            assert seqs == list(range(1, len(seqs) + 1)), "a sequence with a hole"


@pytest.mark.criterion("ES-5")
def test_the_latch_holds_zero_at_once_and_survives_restart_and_override(station: Station) -> None:
    station.configure(poll_interval="5m")
    station.start_controller()
    wait_until(lambda: 50.0 in station.commanded_kw(), "50 kW")
    assert json.loads(station.call("latch", "set", "--reason=smoke").stdout)["changed"]
    wait_until(lambda: station.commanded_kw()[-1] == 0, "0 kW, long before the next poll")
    wait_until(lambda: station.metric("emergency_stop_latched") == 1, "the metric of the latch")
    assert station.metric("control_component", component="emergency_stop") == 1
    (station.etc / "override.yaml").write_text(
        "controller: {components: [{type: to_soe, target_soe_percent: 10}]}"
    )
    station.kill_controller()
    before = len(station.commanded_kw())
    station.start_controller()
    wait_until(lambda: station.metric("emergency_stop_latched") == 1, "the latch after a restart")
    time.sleep(1.0)
    assert set(station.commanded_kw()[before:]) == {0.0}
    report = json.loads(station.call("status").stdout)
    assert report["mode"] == "emergency_stop"
    assert report["latch"]["record"]["reason"] == "smoke"
    station.call("latch", "clear")
    wait_until(lambda: station.commanded_kw()[-1] == 50, "control after the release")


@pytest.mark.criterion("SM-1", "SM-2", "SM-3", "SM-5")
def test_safe_mode_is_ordered_without_a_restart_proven_and_leaves_the_station_idle(station: Station) -> None:
    station.start_controller()
    wait_until(lambda: 50.0 in station.commanded_kw(), "50 kW")
    station.order("safe_mode", lasts_s=None, reason="inspection")
    wait_until(lambda: station.commanded_kw()[-1] == 0, "0 kW")
    assert station.metric("control_component", component="safe_mode") == 1
    assert station.metric("safe_mode", device="B1", reason="order") == 1
    wait_until(lambda: station.metric("zero_verified", device="B1") == 1, "the proof of zero")
    assert "safe mode: inspection (ops)" in station.messages()
    station.withdraw("safe_mode")
    wait_until(lambda: station.commanded_kw()[-1] == 50, "50 kW again")
    # A file that nobody understands counts as safe mode, too.
    (station.var / "orders/setpoint.json").write_text("{")
    wait_until(lambda: station.metric("safe_mode", device="B1", reason="order_unreadable") == 1, "safe mode")
    wait_until(lambda: station.commanded_kw()[-1] == 0, "0 kW")
    station.withdraw("setpoint")
    wait_until(lambda: station.commanded_kw()[-1] == 50, "50 kW again")
    # One that ran out by itself leaves the station idle, not where it was.
    station.order("safe_mode", lasts_s=2)
    wait_until(lambda: station.metric("idle") == 1, "idleness")
    assert station.commanded_kw()[-1] == 0
    station.order("setpoint", power_kw=20.0)
    wait_until(lambda: station.commanded_kw()[-1] == 20, "the fresh set-point")
    assert station.metric("idle") == 0


@pytest.mark.criterion("CT-8", "SM-3")
def test_a_restart_never_applies_an_old_setpoint(station: Station) -> None:
    station.start_controller()
    wait_until(lambda: 50.0 in station.commanded_kw(), "50 kW")
    station.order("setpoint", power_kw=-30.0)
    wait_until(lambda: station.commanded_kw()[-1] == -30, "the set-point")
    assert station.metric("setpoint_valid") == 1
    for stop in (station.kill_controller, station.stop_controller):
        stop()
        before = len(station.commanded_kw())
        station.start_controller()
        wait_until(lambda: station.metric("control_component", component="setpoint") == 1, "a decision")
        wait_until(lambda: (station.metric("device_soe_percent") or 0) > 0, "a measurement")
        seen = len(station.commanded_kw())
        wait_until(lambda n=seen: len(station.commanded_kw()) > n + 3, "more decisions")  # type: ignore[misc]
        assert set(station.commanded_kw()[before:]) == {0.0}
        assert station.metric("setpoint_valid") == 0
    station.order("setpoint", power_kw=-30.0, lasts_s=3)
    wait_until(lambda: station.commanded_kw()[-1] == -30, "a fresh set-point")
    wait_until(lambda: station.commanded_kw()[-1] == 0, "0 kW after its end")
    assert station.metric("setpoint_valid") == 0


@pytest.mark.criterion("MT-3", "MT-4", "MT-6")
def test_maintenance_writes_nothing_after_its_proven_zero_but_a_stop_does(station: Station) -> None:
    station.start_controller()
    wait_until(lambda: 50.0 in station.commanded_kw(), "50 kW")
    station.order("setpoint", power_kw=40.0)
    wait_until(lambda: station.commanded_kw()[-1] == 40, "the set-point")
    station.order("maintenance", lasts_s=600, reason="fan")
    wait_until(lambda: station.metric("zero_verified", device="B1") == 1, "the proof of zero")
    wait_until(lambda: station.metric("maintenance") == 1, "maintenance")

    def settled() -> bool:
        before = (len(station.commanded_kw()), len(station.served_samples()))
        wait_until(lambda: len(station.served_samples()) >= before[1] + 6, "samples")
        return len(station.commanded_kw()) == before[0]

    wait_until(settled, "the end of the writes")
    assert station.commanded_kw()[-1] == 0
    feeds = [entry for entry in station.served_entries() if entry["function"] == 6]
    wait_until(
        lambda: len([e for e in station.served_entries() if e["function"] == 6]) > len(feeds),
        "the heartbeat, without which the device would leave 0 kW by itself",
    )
    writes = len(station.commanded_kw())
    station.call("latch", "set", "--reason=smoke")
    wait_until(lambda: len(station.commanded_kw()) > writes, "the stop's own write")
    station.call("latch", "clear")
    station.withdraw("maintenance")
    wait_until(lambda: station.metric("maintenance") == 0, "the end")
    writes = len(station.commanded_kw())
    wait_until(lambda: len(station.commanded_kw()) > writes + 3, "decisions")
    assert set(station.commanded_kw()[writes:]) == {0.0}, "the old set-point must not come back"
    station.order("setpoint", power_kw=40.0)
    wait_until(lambda: station.commanded_kw()[-1] == 40, "a fresh set-point")


@pytest.mark.criterion("CT-1", "SM-4", "MT-7")
def test_an_unsynchronised_clock_means_safe_mode_and_its_rows_are_corrected(station: Station) -> None:
    station.clock_is_right.unlink()
    station.start_controller()
    wait_until(lambda: station.metric("safe_mode", device="B1", reason="clock") == 1, "safe mode")
    wait_until(lambda: len(station.served_samples()) > 6, "samples")
    assert set(station.commanded_kw()) == {0.0}
    assert station.metric("clock_synchronised") == 0
    station.clock_is_right.touch()
    wait_until(lambda: 50.0 in station.commanded_kw(), "control with the right clock")
    wait_until(lambda: (station.metric("rows_corrected_total") or 0) > 0, "the correction")


@pytest.mark.criterion("CT-7", "SM-2")
def test_setpoints_ramp_and_a_stop_ramps_down(station: Station) -> None:
    station.configure(max_ramp_kw_per_s=20)
    station.start_controller()
    wait_until(lambda: 50.0 in station.commanded_kw(), "50 kW")
    station.order("safe_mode", lasts_s=None)
    wait_until(lambda: station.commanded_kw()[-1] == 0, "0 kW")
    station.withdraw("safe_mode")
    wait_until(lambda: station.commanded_kw()[-1] == 50, "50 kW again")
    before = len(station.commanded_kw())
    assert station.stop_controller() == 0
    assert "left at 0 kW: verified" in station.messages()
    down = station.commanded_kw()[before:]
    assert down[-1] == 0
    assert any(0 < power < 50 for power in down), down
    every = [0.0, *station.commanded_kw()]
    assert all(abs(b - a) <= 20.001 for a, b in pairwise(every)), every


@pytest.mark.criterion("ES-5", "SM-2")
def test_an_emergency_stop_does_not_ramp(station: Station) -> None:
    station.configure(max_ramp_kw_per_s=20)
    station.start_controller()
    wait_until(lambda: 50.0 in station.commanded_kw(), "50 kW")
    before = len(station.commanded_kw())
    station.call("latch", "set", "--reason=smoke")
    wait_until(lambda: station.commanded_kw()[-1] == 0, "0 kW")
    assert set(station.commanded_kw()[before:]) <= {50.0, 0.0}
    station.order("setpoint", power_kw=30.0)
    (station.etc / "override.yaml").write_text(
        "controller: {components: [{type: to_soe, target_soe_percent: 10}]}"
    )
    station.reload()
    assert station.stop_controller() == 0
    station.start_controller()
    wait_until(lambda: station.metric("emergency_stop_latched") == 1, "the latch after a restart")
    seen = len(station.served_samples())
    wait_until(lambda: len(station.served_samples()) > seen + 4, "samples")
    assert set(station.commanded_kw()[before:]) <= {50.0, 0.0}
    assert station.commanded_kw()[-1] == 0


@pytest.mark.criterion("SM-4", "SM-6", "CT-3")
def test_a_silent_device_means_safe_mode_until_it_answers_again(station: Station) -> None:
    station.start_controller()
    wait_until(lambda: 50.0 in station.commanded_kw(), "50 kW")
    station.stop_simulator()
    wait_until(lambda: (station.metric("modbus_errors_total", device="B1") or 0) >= 2, "errors")
    wait_until(lambda: station.metric("control_component", component="safe_mode") == 1, "safe mode")
    before = len(station.commanded_kw())
    station.start_simulator()
    wait_until(lambda: 50.0 in station.commanded_kw()[before:], "50 kW again")
    assert "works again" in station.messages()


def test_a_battery_that_never_answers_takes_nothing_from_the_others(station: Station) -> None:
    with socket.create_server(("127.0.0.1", 0)) as black_hole:
        config = station.config
        config["controller"]["poll_interval"] = "1m"
        mute = json.loads(json.dumps(config["devices"]["bess"][0]))
        mute |= {"id": "ab79127d-a435-5f3c-87bf-8943623e4136", "name": "B2"}
        mute["modbus"] |= {"port": black_hole.getsockname()[1], "timeout": "30s"}
        config["devices"]["bess"].insert(0, mute)
        (station.etc / "config.yaml").write_text(yaml.safe_dump(config))
        station.start_controller()
        # Less than the one time-out of the mute one.
        wait_until(lambda: 50.0 in station.commanded_kw(), "50 kW", 28)
        station.call("latch", "set", "--reason=smoke")
        wait_until(lambda: station.commanded_kw()[-1] == 0, "0 kW", 28)


def test_a_full_disk_neither_stops_control_nor_the_latch_nor_loses_samples(
    tmp_path: Path, small_disk: Path
) -> None:
    station = Station(tmp_path, state_dir=small_disk)
    station.start_simulator()
    try:
        station.start_controller()
        wait_until(lambda: 50.0 in station.commanded_kw(), "50 kW")
        ballast = small_disk / "ballast"
        fill(ballast)
        wait_until(lambda: station.metric("buffer_writable") == 0, "the full disk to be told", 60)
        assert "samples cannot be stored, control goes on" in station.messages()
        before = len(station.served_samples())
        wait_until(lambda: len(station.served_samples()) > before + 4, "samples on a full disk")
        assert json.loads(station.call("latch", "set", "--reason=smoke").stdout)["latched"]
        wait_until(lambda: station.commanded_kw()[-1] == 0, "0 kW")
        ballast.unlink()
        wait_until(lambda: station.metric("buffer_writable") == 1, "the store to heal")
        assert station.stop_controller() == 0
        assert "lost" not in station.messages()
        store = Store(small_disk / "buffer.db")
        stored = {(row.sample.kind, row.sample.payload["heartbeat"]) for row in store.oldest(10_000)}
        store.close()
        kinds = {"B1": "bess", "M1": "meter"}
        assert stored == {(kinds[device], heartbeat) for device, heartbeat in station.served_samples()}
    finally:
        station.end()


def test_a_stop_leaves_zero_and_tells_systemd(station: Station, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        station.environment |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "900000"}
        station.start_controller()
        heard = ""
        while "READY=1" not in heard or heard.count("WATCHDOG=1") < 3 or "50 kW by to_soe" not in heard:
            heard += systemd.recv(4096).decode() + "\n"
        assert station.stop_controller() == 0
        while "STOPPING=1" not in heard:
            heard += systemd.recv(4096).decode() + "\n"
    assert station.commanded_kw()[-1] == 0
    assert "left at 0 kW: verified" in station.messages()


@pytest.mark.criterion("CT-4", "SM-4")
def test_an_invalid_configuration_leaves_the_last_good_one_in_force(station: Station) -> None:
    station.start_controller()
    wait_until(lambda: 50.0 in station.commanded_kw(), "50 kW")
    hash_before = json.loads(station.call("status").stdout)["config_hash"]
    station.log.rename(station.log.with_suffix(".log.1"))
    good = (station.etc / "config.yaml").read_text()
    (station.etc / "config.yaml").write_text(good.replace("power_kw: 50", "power_kw: fifty"))
    station.reload()
    wait_until(lambda: station.metric("config_valid") == 0, "the refusal")
    problem = "config.yaml: controller.components[to_soe].power_kw: Input should be a valid number"
    assert problem in station.messages()
    assert problem in station.log.read_text(), "the log file was reopened after rotation"
    # Whoever wrote it wanted something, perhaps a restriction: 0 kW until it is known.
    wait_until(lambda: station.commanded_kw()[-1] == 0, "safe mode")
    assert station.metric("safe_mode", device="B1", reason="config") == 1
    assert station.stop_controller() == 0
    station.start_controller()
    wait_until(lambda: station.metric("config_valid") == 0, "the refusal after a start")
    report = json.loads(station.call("status").stdout)
    assert report["config_hash"] == hash_before
    assert problem in report["config_problems"][0]
    (station.etc / "config.yaml").write_text(good.replace("power_kw: 50", "power_kw: 30"))
    station.reload()
    wait_until(lambda: station.metric("config_valid") == 1, "the corrected configuration")
    wait_until(lambda: station.commanded_kw()[-1] == 30, "its set-point")
    checked = station.call("status")
    assert json.loads(checked.stdout)["config_hash"] != hash_before


def test_without_a_last_good_configuration_it_says_why_and_ends(station: Station) -> None:
    (station.etc / "config.yaml").write_text("site: WLCE\nhobby: x\n")
    done = station.call("run")
    assert done.returncode == 1
    assert "config.yaml: hobby: unknown key; known here: site" in done.stderr
    assert "no last good configuration" in done.stderr
    assert "Traceback" not in done.stderr
    asked = station.call("status")
    assert asked.returncode == 3
    assert json.loads(asked.stdout)["running"] is False


def test_check_config_is_what_a_deployment_validates_with(station: Station) -> None:
    command = station.command("check-config")[:6]

    def check(*arguments: str) -> tuple[int, str]:
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    config, override, database = (station.etc / f"{name}.yaml" for name in ("config", "override", "database"))
    code, text = check(f"--config={config}")
    assert (code, "valid: site WLCE" in text) == (0, True)
    override.write_text("controller: {poll_interval: soon}")
    code, text = check(f"--config={config}", f"--override={override}")
    assert code == 1
    assert "override.yaml: controller.poll_interval: 'soon' is not a duration" in text
    database.write_text(
        yaml.safe_dump({"hosts": ["db"], "name": "flux", "user": "w", "password": ["hunter2"]})
    )
    code, text = check(f"--database={database}")
    assert code == 1
    assert "password" in text
    assert "hunter2" not in text
    assert check()[0] == 2
