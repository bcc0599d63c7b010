"""The simulator on the wire: strict client, mbpoll as a client of other origin, its log and its process."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from free_port import free_port
from stationkeeper.modbus.client import StrictClient, Table
from stationkeeper.modbus.errors import DeviceExceptionError
from stationkeeper.profiles import (
    decode_sample,
    load_profile,
    read_points,
    read_sample,
    run_recipe,
    write_point,
)
from stationkeeper.simulator import command
from stationkeeper.simulator.config import ConfigError, SimulatorConfig, Station, load_config
from stationkeeper.simulator.device import DeviceException
from stationkeeper.simulator.served_log import ServedLog
from stationkeeper.simulator.server import SimulatorServer

DATA = Path(command.__file__).parents[1] / "profiles/data"
BATTERY, METER = load_profile("generic_battery"), load_profile("generic_meter")
DEVICES: list[dict[str, Any]] = [
    {"unit": 2, "name": "meter", "profile": "generic_meter", "meter_of": "battery"},
    {"unit": 1, "name": "battery", "profile": "generic_battery", "watchdog": {"timeout_s": 0}},
]


def content(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return {
        "listen": {"host": "127.0.0.1", "port": 0},
        "log": str(tmp_path / "served.jsonl"),
        "devices": DEVICES,
    } | changes


def serving(test: Callable[[StrictClient, Station], Awaitable[None]], tmp_path: Path) -> list[dict[str, Any]]:
    """Run `test` against a simulator; return the served log."""

    async def main() -> None:
        config = SimulatorConfig.model_validate(content(tmp_path))
        station = Station(config)
        log = ServedLog(config.log)
        server = SimulatorServer(station.devices, log)
        client = StrictClient("127.0.0.1", await server.start("127.0.0.1", 0))
        try:
            await asyncio.wait_for(test(client, station), 20)
        finally:
            await client.close()
            await server.close()
            log.close()

    asyncio.run(main())
    return [json.loads(line) for line in (tmp_path / "served.jsonl").read_text().splitlines()]


def test_each_telemetry_answer_has_its_own_heartbeat_and_log_line(tmp_path: Path) -> None:
    samples = []

    async def test(client: StrictClient, station: Station) -> None:
        await run_recipe(client, 1, BATTERY, "set_power", power_kw=40)
        for _ in range(3):
            station.step(0.25)
            samples.append(await read_sample(client, 1, BATTERY))
            await read_points(client, 1, BATTERY, ["power_kw"])
        assert (await read_sample(client, 2, METER))["heartbeat"] == 1

    log = serving(test, tmp_path)
    assert [sample["heartbeat"] for sample in samples] == [1, 2, 3]
    served = [entry for entry in log if entry["unit"] == 1 and entry.get("count") == 13]
    assert [decode_sample(entry["words"], BATTERY) for entry in served] == samples
    assert log[0] | {"at": "", "client": ""} == {
        "at": "",
        "client": "",
        "unit": 1,
        "device": "battery",
        "function": 16,
        "address": 0,
        "written": [0, 40000],
    }
    assert abs((datetime.now(UTC) - datetime.fromisoformat(log[0]["at"])).total_seconds()) < 60
    assert log[0]["client"].startswith("127.0.0.1:")


def test_identity_and_rating_are_in_registers(tmp_path: Path) -> None:
    async def test(client: StrictClient, _station: Station) -> None:
        for unit, profile in ((1, BATTERY), (2, METER)):
            for entry in profile.identity:
                assert (await read_points(client, unit, profile, [entry.point]))[entry.point] == entry.equals
            assert (await read_points(client, unit, profile, ["rated_power_kw"]))["rated_power_kw"] == 100

    serving(test, tmp_path)


@pytest.mark.parametrize(
    ("unit", "address", "words", "code"),
    [
        (9, 0, [0, 0], 11),
        (1, 5, [0], 2),
        (1, 4, [0, 0], 2),
        (1, 0, [0], 3),
        (1, 1, [0, 0], 3),
        (1, 0, [0, 50000, 7], 3),
        (1, 0, [2, 50000], 3),
        (2, 0, [0], 2),
    ],
)
def test_refused_writes_change_nothing(
    unit: int, address: int, words: list[int], code: int, tmp_path: Path
) -> None:
    async def test(client: StrictClient, _station: Station) -> None:
        await write_point(client, 1, BATTERY, "power_command_kw", 12)
        with pytest.raises(DeviceExceptionError) as caught:
            await client.write(unit, address, words)
        assert caught.value.code == code
        assert await client.read(1, Table.HOLDING, 0, 5) == [0, 12000, 1, 0, 0]

    assert serving(test, tmp_path)[1]["exception"] == code


def test_unmapped_reads_are_refused(tmp_path: Path) -> None:
    async def test(client: StrictClient, _station: Station) -> None:
        for table, address, count in (
            ("input", 12, 2),
            ("holding", 5, 1),
            ("discrete", 2, 1),
            ("coil", 1, 1),
        ):
            with pytest.raises(DeviceExceptionError) as caught:
                await client.read(1, table, address, count)
            assert caught.value.code == 2

    serving(test, tmp_path)


@pytest.mark.parametrize(
    ("request_pdu", "answer"),
    [
        ("0100000001", "010101"),
        ("0200000002", "020101"),
        ("0300020001", "03020001"),
        ("050000ff00", "050000ff00"),
        ("0500001234", "8503"),
        ("0600030007", "0600030007"),
        ("0f000000010100", "0f00000001"),
        ("0f000000010200", "8f03"),
        ("10000000020400000001", "1000000002"),
        ("100000000204000000", "9003"),
        ("160003ff00000a", "160003ff00000a"),
        ("1700030001000300010200ff", "170200ff"),
        ("0300000000", "8303"),
        ("030000007e", "8303"),
        ("03ffff0002", "8302"),
        ("03", "8303"),
        ("2b0e0100", "ab01"),
    ],
)
def test_functions_on_the_wire(request_pdu: str, answer: str, tmp_path: Path) -> None:
    station = Station(SimulatorConfig.model_validate(content(tmp_path)))
    assert SimulatorServer(station.devices).answer("test", 1, bytes.fromhex(request_pdu)).hex() == answer


def test_any_bytes_have_an_answer(tmp_path: Path) -> None:
    station = Station(SimulatorConfig.model_validate(content(tmp_path)))
    server = SimulatorServer(station.devices)
    random_ = random.Random(4)
    for _ in range(3000):
        pdu = bytes([random_.choice([1, 2, 3, 4, 5, 6, 15, 16, 22, 23, random_.randrange(1, 128)])])
        pdu += bytes(
            random_.choice([0, 0, 1, 2, 4, random_.randrange(256)]) for _ in range(random_.randint(0, 12))
        )
        assert 2 <= len(server.answer("test", 1, pdu)) <= 253


def test_a_frame_that_is_not_modbus_ends_the_connection(tmp_path: Path) -> None:
    async def test(client: StrictClient, _station: Station) -> None:
        for frame in (
            b"\x00\x01\x00\x01\x00\x06\x01",
            b"\x00\x01\x00\x00\x00\x01\x01",
            b"GET / HTTP/1.1\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
            writer.write(frame)
            assert await reader.read() == b""
            writer.close()

    assert serving(test, tmp_path) == []


def test_the_log_survives_a_full_disk_and_a_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "served.jsonl"
    log = ServedLog(path)
    with monkeypatch.context() as full:
        full.setattr("os.write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        log.append({"n": 1})
    assert path.read_text() == ""
    log.append({"n": 2})
    path.rename(tmp_path / "served.jsonl.1")
    log.reopen()
    log.append({"n": 3})
    log.close()
    lines = (tmp_path / "served.jsonl.1").read_text() + path.read_text()
    assert [json.loads(line)["n"] for line in lines.splitlines()] == [1, 2, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"listen": {}}, "listen.host: Field required"),
        ({"extra": 1}, "extra: Extra inputs"),
        ({"devices": [DEVICES[0]]}, "meter is meter_of battery, which is no battery here"),
        ({"devices": [DEVICES[1], DEVICES[1]]}, "unit 1 is used twice"),
        ({"devices": [DEVICES[1] | {"soc": 1}]}, "devices.0.battery.soc: Extra inputs"),
        ({"devices": [DEVICES[1] | {"watchdog": {"fallback": "none"}}]}, "watchdog.fallback"),
        ({"devices": [DEVICES[1] | {"profile": "generic_meter"}]}, "is of a meter, no battery"),
        ({"devices": [DEVICES[1] | {"noise_kw": 0.6}]}, "above the noise floor"),
        ({"devices": [DEVICES[1] | {"profile": "none"}]}, "no profile 'none'"),
    ],
)
def test_a_wrong_configuration_says_where(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content(tmp_path, **changes)))
    assert command.run(["run", "--config", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_a_missing_configuration_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read"):
        load_config(tmp_path / "none.yaml")


def test_points_that_the_physics_do_not_know_keep_what_is_given_and_written(tmp_path: Path) -> None:
    profile = yaml.safe_load((DATA / "generic_battery.yaml").read_text()) | {"name": "other_battery"}
    profile["points"] |= {
        "colour": {"table": "input", "address": 90, "type": "uint16"},
        "mode": {"table": "holding", "address": 90, "type": "uint16"},
        "secret": {"table": "holding", "address": 91, "type": "uint16"},
    }
    profile["write_only"] = ["secret"]
    (tmp_path / "other_battery.yaml").write_text(yaml.safe_dump(profile))
    config = SimulatorConfig.model_validate(
        content(
            tmp_path,
            devices=[DEVICES[1] | {"profile": "other_battery", "values": {"colour": 7, "mode": 2}}],
            profile_path=[str(tmp_path)],
        )
    )
    device = Station(config).devices[1]
    assert device.read(Table.INPUT, 90, 1) == [7]
    assert device.read(Table.HOLDING, 90, 1) == [2]
    device.write(Table.HOLDING, 90, [5, 6])
    assert device.read(Table.HOLDING, 90, 1) == [5]
    with pytest.raises(DeviceException) as caught:
        device.read(Table.HOLDING, 91, 1)
    assert caught.value.code == 2
    device.reboot()
    assert device.read(Table.HOLDING, 90, 1) == [2]
    with pytest.raises(ConfigError, match="values: 'power_kw' is no point of profile generic_battery"):
        Station(
            SimulatorConfig.model_validate(
                content(tmp_path, devices=[DEVICES[1] | {"values": {"power_kw": 7}}])
            )
        )


def test_heartbeats_of_a_later_run_are_higher() -> None:
    assert command.first_heartbeat(1_800_000_001) == command.first_heartbeat(1_800_000_000) + 16
    assert command.first_heartbeat(1_990_000_000) < 1 << 32


def mbpoll(port: int, *arguments: str) -> str:
    """Run the independent client with 0-based addresses."""
    words = ["mbpoll", "-m", "tcp", "-p", str(port), "-0", "-1", "-q", *arguments]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=20)
    return " ".join(done.stdout.split())


def test_the_process_serves_mbpoll_and_ends_on_sigterm(tmp_path: Path) -> None:
    port = free_port()
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump(content(tmp_path, listen={"host": "127.0.0.1", "port": port}, time_step_s=0.05))
    )
    words = [sys.executable, "-m", "stationkeeper.cli", "simulator"]
    process = subprocess.Popen([*words, "run", "--config", str(path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"serving units 1, 2 on 127.0.0.1:{port}\n"
        mbpoll(port, "-a", "1", "-r", "0", "-t", "4:int", "-B", "127.0.0.1", "--", "-25000")
        deadline = time.monotonic() + 20
        while "-25000" not in mbpoll(port, "-a", "1", "-r", "4", "-t", "3:int", "-B", "127.0.0.1"):
            assert time.monotonic() < deadline
        status = subprocess.run(
            [*words, "status", "--config", str(path)], capture_output=True, text=True, check=True, timeout=20
        )
        answers = [json.loads(line) for line in status.stdout.splitlines()]
        assert [answer["name"] for answer in answers] == ["meter", "battery"]
        assert answers[1]["sample"]["setpoint_kw"] == -25
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert command.run(["status", "--config", str(path)]) == 1
