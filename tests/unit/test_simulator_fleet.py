"""Many devices in one process, and the socket by which a running simulator takes faults."""

from __future__ import annotations

import asyncio
import json
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from stationkeeper.modbus.client import StrictClient, Table
from stationkeeper.modbus.errors import DeviceExceptionError
from stationkeeper.simulator import command
from stationkeeper.simulator.config import SimulatorConfig, Station
from stationkeeper.simulator.control import Control, ControlError, ask
from stationkeeper.simulator.server import SimulatorServer

BATTERY: dict[str, Any] = {"unit": 1, "name": "b", "profile": "generic_battery", "watchdog": {"timeout_s": 0}}
METER: dict[str, Any] = {"unit": 2, "name": "m", "profile": "generic_meter", "meter_of": "b"}


def config(**content: Any) -> SimulatorConfig:
    return SimulatorConfig.model_validate({"log": "log"} | content)


def fleet(count: int, **changes: Any) -> dict[str, Any]:
    return {
        "count": count,
        "listen": {"host": "127.10.0.1", "port": 5020},
        "devices": [BATTERY, METER],
    } | changes


def test_a_fleet_has_a_place_a_name_and_a_seed_for_each_device() -> None:
    by_port = config(fleet=fleet(200)).endpoints()
    assert [str(listen) for listen in by_port][::199] == ["127.10.0.1:5020", "127.10.0.1:5219"]
    by_address = config(fleet=fleet(300, spread="address")).endpoints()
    assert [str(listen) for listen in by_address][::299] == ["127.10.0.1:5020", "127.10.1.44:5020"]
    battery, meter = list(by_port.values())[199]
    assert (battery.name, meter.name, getattr(meter, "meter_of", "")) == ("b-0200", "m-0200", "b-0200")
    assert len({devices[0].seed for devices in by_port.values()}) == 200


def test_devices_may_have_places_of_their_own() -> None:
    places = config(
        listen={"host": "127.0.0.1"},
        devices=[METER, BATTERY | {"listen": {"host": "127.0.0.2", "port": 1502}}],
    ).endpoints()
    assert [str(listen) for listen in places] == ["127.0.0.1:502", "127.0.0.2:1502"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "neither `devices` nor a `fleet`"),
        ({"devices": [BATTERY]}, "b needs a `listen`"),
        ({"fleet": fleet(70000)}, "less than or equal to 10000"),
        ({"fleet": fleet(10000, listen={"host": "127.0.0.1", "port": 60000})}, "no room for 10000 ports"),
        ({"fleet": fleet(2, spread="address", listen={"host": "here"})}, "needs an IP address"),
        ({"fleet": fleet(2, listen={"host": "127.0.0.1", "pty": "/x"})}, "no `rtu_port` and no `pty`"),
        ({"fleet": fleet(2, devices=[BATTERY, BATTERY | {"name": "c"}])}, "unit 1 is used twice"),
        ({"fleet": fleet(2, devices=[METER])}, "m-0001 is meter_of b-0001, which is no battery here"),
        (
            {
                "fleet": fleet(2),
                "listen": {"host": "127.10.0.1", "port": 5021, "rtu_port": 1},
                "devices": [BATTERY],
            },
            "127.10.0.1:5021 is used twice",
        ),
    ],
)
def test_a_wrong_fleet_says_where(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**content)


def test_a_fleet_of_200_serves_in_one_process() -> None:
    station = Station(config(fleet=fleet(200)))
    servers = [SimulatorServer(endpoint.devices) for endpoint in station.endpoints]

    async def turn(number: int, server: SimulatorServer) -> list[int]:
        client = StrictClient("127.0.0.1", await server.start("127.0.0.1", 0), timeout_s=60)
        await client.write(1, 0, [0, number])
        words = await client.read(1, Table.INPUT, 4, 2)
        await client.close()
        return words

    async def main() -> list[list[int]]:
        answers = await asyncio.gather(*(turn(number, server) for number, server in enumerate(servers)))
        for server in servers:
            await server.close()
        return answers

    assert asyncio.run(main()) == [[0, number] for number in range(200)]
    station.step(0.25)


def control() -> tuple[Control, list[SimulatorServer]]:
    station = Station(config(fleet=fleet(3)))
    servers = [SimulatorServer(endpoint.devices) for endpoint in station.endpoints]
    return Control(list(zip(station.endpoints, servers, strict=True))), servers


def do(socket: Control, **request: Any) -> Any:
    answer = socket.answer(json.dumps(request))
    assert "error" not in answer, answer
    return answer["result"]


def test_faults_of_named_devices_or_of_all() -> None:
    socket, servers = control()
    assert do(socket, set={"kind": "busy", "count": 2}, devices=["b-0002", "m-0002", "b-0003"]) == [
        {"listen": "127.10.0.1:5021", "number": 1},
        {"listen": "127.10.0.1:5021", "number": 2},
        {"listen": "127.10.0.1:5022", "number": 1},
    ]
    do(socket, set={"kind": "black_hole"})
    servers[1].answer("test", 2, bytes.fromhex("0400000002"))
    assert do(socket, list={})[2] == {
        "listen": "127.10.0.1:5021", "number": 2, "hits": 1, "kind": "busy", "unit": 2, "count": 2,
    }  # fmt: skip
    assert do(socket, clear={"kind": "busy"}, devices=["m-0002"]) == 1
    assert do(socket, clear={}) == 5
    assert do(socket, list={}) == []


def test_writes_and_log_are_told() -> None:
    socket, servers = control()
    servers[1].answer("test", 1, bytes.fromhex("0600020000"))
    servers[2].answer("test", 2, bytes.fromhex("0400000002"))
    assert do(socket, writes={}, devices=["b-0001", "b-0002"]) == {"b-0001": 0, "b-0002": 1}
    assert [entry["device"] for entry in do(socket, log={"last": 5})] == ["b-0002", "m-0003"]
    assert [entry["device"] for entry in do(socket, log={"last": 1})] == ["m-0003"]
    assert "busy" in do(socket, kinds={})


@pytest.mark.parametrize(
    ("request_line", "message"),
    [
        ("nonsense", "a request is one JSON object"),
        ("[]", "an object with one of set, clear"),
        ('{"list": {}, "log": {}}', "an object with one of set, clear"),
        ('{"list": 3}', "its arguments are an object"),
        ('{"list": {"all": 1}}', "unknown all; allowed: nothing"),
        ('{"list": {}, "device": "b"}', "list: unknown device; beside it is only `devices`"),
        ('{"set": {"kind": "busy"}, "devices": ["x"]}', "devices: a list of these names: b-0001, m-0001"),
        ('{"set": {"kind": "gremlin"}}', "unknown fault kind 'gremlin'"),
        (
            '{"set": {"kind": "temperature", "value": 60}, "devices": ["b-0001", "m-0001"]}',
            "is for batteries",
        ),
        ('{"log": {"last": 0}}', "at least 1"),
        ('{"clear": {"kind": "x"}}', "unknown fault kind 'x'"),
    ],
)
def test_a_request_that_cannot_be_done_says_why_and_changes_nothing(request_line: str, message: str) -> None:
    socket, servers = control()
    assert message in socket.answer(request_line)["error"]
    assert not any(server.faults.active() for server in servers)


def test_a_running_simulator_is_controlled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    socket, line = tmp_path / "control.sock", tmp_path / "tty"
    listen = {"host": "127.0.0.1", "port": 0, "rtu_port": 0, "pty": str(line)}
    content = {"listen": listen, "log": str(tmp_path / "log"), "control": str(socket), "devices": [BATTERY]}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(content))
    words = [sys.executable, "-m", "stationkeeper.cli", "simulator", "run", "--config", str(path)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline().split()
        port = int(said[4].rpartition(":")[2].rstrip(","))
        assert said[-1] == str(line)
        assert line.is_char_device()
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600
        arguments = ["control", "--socket", str(socket)]
        assert command.run([*arguments, '{"set": {"kind": "exception", "code": 4}}']) == 0
        assert json.loads(capsys.readouterr().out)["number"] == 1

        async def write() -> None:
            client = StrictClient("127.0.0.1", port, timeout_s=60)
            with pytest.raises(DeviceExceptionError) as caught:
                await client.write(1, 0, [0, 1])
            assert caught.value.code == 4
            await client.close()

        asyncio.run(write())
        assert ask(socket, {"writes": {}}) == {"b": 1}
        with pytest.raises(ControlError, match="an object with one of"):
            ask(socket, {"nothing": {}})
        assert command.run([*arguments, "log"]) == 0
        assert json.loads(capsys.readouterr().out)["fault"] == "exception"
        assert command.run([*arguments, "nothing"]) == 1
        assert command.run([*arguments, "{"]) == 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert command.run([*arguments, "list"]) == 1
