"""Ansible module modbus_write, run by Ansible itself, each write read back by mbpoll."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from modbus_module_rig import SYSTEM_PYTHON, LiveBench

from stationkeeper.audit.verify import verify
from stationkeeper.modbus.endpoint_lock import endpoint_lock

PROOF = {"window_s": 30, "interval_s": 0.2, "samples": 2, "hold_s": 0.4, "other_master_cycle_s": 0.2}
QUICK = PROOF | {"samples": 1, "hold_s": 0, "other_master_cycle_s": 0}


@pytest.fixture
def live(tmp_path: Path) -> Iterator[LiveBench]:
    bench = LiveBench(tmp_path)
    yield bench
    bench.close()


@pytest.mark.criterion("MW-1", "MW-2", "MW-3", "MW-20")
def test_check_then_write_then_again(live: LiveBench) -> None:
    arguments = {
        "profile_content": live.content,
        "point": "power_command_kw",
        "value": 12.5,
        "verify": PROOF,
        "reason": "test",
        "ticket": "OPS-1",
    }
    planned = live.run("modbus_write", check=True, **arguments)
    assert live.writes() == 0
    assert (planned["changed"], planned["outcome"], planned["words"]) == (True, None, [0, 12500])
    assert planned["diff"] == {
        "before": {
            "power_command_kw": {
                "value": "40 kW",
                "registers": {"holding 0": "0x0000", "holding 1": "0x9C40"},
            }
        },
        "after": {
            "power_command_kw": {
                "value": "12.5 kW",
                "registers": {"holding 0": "0x0000", "holding 1": "0x30D4"},
            }
        },
    }
    assert live.mbpoll("4:int", 0) == "40000"

    done = live.run("modbus_write", **arguments)
    assert (done["changed"], done["outcome"]) == (True, "verified"), done
    assert done["diff"] == planned["diff"]
    assert live.mbpoll("4:int", 0) == "12500"
    assert live.mbpoll("3:int", 4) == "12500", "the set-point in force is what was verified"
    assert done["after"]["text"] == "12.5 kW (0000 30D4)"
    assert len(done["evidence"]["samples"]) >= 2
    assert len(done["attempts"]) == 1
    assert done["timings"]["verified_s"] >= 0.4

    again = live.run("modbus_write", **arguments)
    assert (again["changed"], again["outcome"]) == (False, "unchanged")
    assert again["diff"] == {"before": {}, "after": {}}
    assert live.writes() == 1

    intent, row = live.audit
    assert (intent["event"], row["event"]) == ("WRITE_INTENT", "WRITE")
    data = row["data"]
    assert data["raw_before"] == "0000 9C40"
    assert data["raw_sent"] == data["raw_after"] == "0000 30D4"
    assert data["outcome"] == "verified"
    assert (data["reason"], data["ticket"], data["unit"]) == ("test", "OPS-1", 1)
    assert data["endpoint"] == f"127.0.0.1:{live.port}"
    assert data["who"]["service"]
    assert data["host"]
    assert data["commit"]
    assert len(data["samples"]) >= 2
    assert data["at"].endswith("Z")
    audit = live.state / "audit"
    assert verify(audit / "chain.jsonl", audit / "keys").findings == []


@pytest.mark.criterion("MW-5", "MW-11")
def test_raw_registers_coils_bits_and_write_only(live: LiveBench) -> None:
    raw = {"scale": 0.1, "type": "int16", "engineering_unit": "kW", "storage": "ram", "verify": QUICK}
    done = live.run("modbus_write", reference="40021", value="0.3", **raw)
    assert (done["outcome"], done["words"]) == ("verified", [3]), done
    assert live.mbpoll("4", 20) == "3"
    coil = live.run("modbus_write", address=8, table="coil", value=True, verify=QUICK)
    assert coil["outcome"] == "verified", coil
    assert live.mbpoll("0", 8) == "1"
    live.mbpoll("4", 21, "80")
    field = live.run("modbus_write", address=21, mask=0x0F00, value=10, function="22", verify=QUICK)
    assert field["outcome"] == "verified", field
    assert live.mbpoll("4", 21) == str(0x0A50)
    sent = live.run(
        "modbus_write", address=22, value=1, write_only=True, semantic="pulse", verify={"mode": "none"}
    )
    assert (sent["outcome"], sent["changed"]) == ("accepted_unverified", True), sent
    assert any("proves nothing" in warning for warning in sent["warnings"])
    assert live.bench.session is not None
    assert live.writes() == 5


@pytest.mark.criterion("MW-6")
def test_a_group_that_fails_on_the_way(live: LiveBench) -> None:
    live.fault("exception", code=3, functions={6}, address=20)
    done = live.run(
        "modbus_write",
        profile_content=live.content,
        group=[
            {"point": "watchdog_timeout_s", "value": 30, "verify": QUICK},
            {"point": "limit_kw", "value": 55, "verify": QUICK},
            {"point": "power_command_kw", "value": 20, "verify": QUICK},
        ],
    )
    assert done["failed"]
    assert done["outcome"] == "rejected"
    assert done["written"] == ["watchdog_timeout_s"]
    assert "step 2 of 3, limit_kw" in done["msg"]
    assert [(step["name"], step["outcome"]) for step in done["on_partial"]] == [
        ("power_command_kw", "verified")
    ]
    assert live.mbpoll("4", 4) == "30"
    assert live.mbpoll("4:int", 0) == "0"


@pytest.mark.criterion("MW-13")
def test_a_recipe_and_a_device_that_limits_it(live: LiveBench) -> None:
    arguments = {"profile_content": live.content, "recipe": "set_power", "verify": PROOF | {"window_s": 4}}
    done = live.run("modbus_write", power_kw=-20, **arguments)
    assert (done["outcome"], done["changed"], done["written"]) == ("verified", True, ["power_command_kw"]), (
        done
    )
    assert live.mbpoll("4:int", 0) == "-20000"
    assert live.run("modbus_write", power_kw=-20, **arguments)["outcome"] == "unchanged"
    live.fault("clamp", value=50)
    limited = live.run("modbus_write", power_kw=80, on_partial="none", **arguments)
    assert limited["failed"]
    assert "asked 80 kW, the device holds 50 kW" in limited["msg"]


@pytest.mark.criterion("MW-14")
def test_an_endpoint_that_another_run_uses(live: LiveBench) -> None:
    async def hold() -> Any:
        folder = live.state / "locks" / "endpoints"
        async with endpoint_lock(folder, "127.0.0.1", live.port, timeout_s=1, owner="the other run"):
            return await asyncio.to_thread(live.run, "modbus_write", address=20, value=1, lock_timeout_s=0.1)

    blocked = asyncio.run(hold())
    assert (blocked["failed"], blocked["outcome"]) == (True, "blocked_by_interlock")
    assert "the other run" in blocked["msg"]
    assert live.bench.requests() == []


@pytest.mark.criterion("MW-20")
def test_without_an_audit_only_writes_towards_zero_leave(live: LiveBench, tmp_path: Path) -> None:
    (live.state / "audit").mkdir(parents=True)
    (live.state / "audit" / "signing_key.pem").write_text("no key")
    (live.state / "audit" / "signing_key.pem").chmod(0o600)
    arguments = {"profile_content": live.content, "point": "power_command_kw", "verify": QUICK}
    refused = live.run("modbus_write", value=60, **arguments)
    assert (refused["failed"], refused["outcome"]) == (True, "blocked_by_interlock")
    assert "audit" in refused["msg"]
    assert live.writes() == 0
    done = live.run("modbus_write", value=0, **arguments)
    assert done["outcome"] == "verified", done
    assert any("spool" in warning for warning in done["warnings"])
    assert live.mbpoll("4:int", 0) == "0"
    (spooled,) = (tmp_path / "spool").glob("*.jsonl")
    entry = json.loads(spooled.read_text())
    assert (entry["event"], entry["data"]["outcome"]) == ("WRITE", "verified")


@pytest.mark.criterion("MW-4")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"address": 20, "value": True}, "True is not a number; write 1"),
        ({"address": 20, "value": 0.05, "scale": 0.1}, "not a multiple of the register's step 0.1"),
        ({"group": [{"colour": "red"}]}, "group, entry 1: no such option: colour"),
    ],
)
def test_wrong_requests_are_refused_before_a_connection_is_opened(
    arguments: dict[str, Any], message: str, live: LiveBench
) -> None:
    result = live.run("modbus_write", **arguments)
    assert result["failed"]
    assert message in result["msg"]
    assert live.bench.requests() == []


@pytest.mark.criterion("MW-1")
def test_check_mode_warns_where_reads_feed_the_watchdog(live: LiveBench) -> None:
    content = yaml.safe_load(yaml.safe_dump(live.content))
    content["watchdog"]["fed_by"] = "any_message"
    result = live.run("modbus_write", check=True, profile_content=content, recipe="zero_power")
    assert any("feeds this device's watchdog" in warning for warning in result["warnings"])
    assert (result["changed"], live.writes()) == (True, 0)


def test_without_the_package_it_says_how_to_install_it(live: LiveBench) -> None:
    result = live.run("modbus_write", python=SYSTEM_PYTHON, address=1, value=1)
    assert result["failed"]
    assert "pip install -e '.[control]'" in result["msg"]
    assert "ansible_playbook_python" in result["msg"]
