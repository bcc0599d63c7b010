"""What a run leaves behind: audit rows, times of writes that wear memory out, locks; and whole jobs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from modbus_writing_bench import QUICK, Bench, profile_content, run

from stationkeeper.audit.paths import AuditPaths
from stationkeeper.modbus.endpoint_lock import endpoint_lock
from stationkeeper.modbus.errors import EndpointBusyError, ModbusError
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.modbus.writing.device import Device
from stationkeeper.modbus.writing.execute import execute
from stationkeeper.modbus.writing.group import run_group
from stationkeeper.modbus.writing.job import Job, Work, carry_out
from stationkeeper.modbus.writing.journal import AuditedGate, AuditSink, Author, SinkError
from stationkeeper.modbus.writing.points import ProfilePlaces, point_request, recipe_requests
from stationkeeper.modbus.writing.request import Plan, Verify, plan
from stationkeeper.modbus.writing.wear import WearLedger


class Sink:
    """An audit in memory, which may be down."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, dict[str, Any]]] = []
        self.spooled: list[dict[str, Any]] = []
        self.up = self.spool_up = True

    def append(self, event: str, data: Mapping[str, Any]) -> None:
        if not self.up:
            raise SinkError("disk full")
        self.rows.append((event, dict(data)))

    def spool(self, event: str, data: Mapping[str, Any], at: datetime) -> None:
        if not self.spool_up:
            raise SinkError("no place")
        self.spooled.append(dict(data))


def gated(bench: Bench, directory: Path) -> Sink:
    """Give the bench's session a gate with an audit in memory."""
    sink = Sink()
    author = Author(f"127.0.0.1:{bench.port}", 1, "a reason", "OPS-7")
    wear = WearLedger(directory / "wear", "127.0.0.1", bench.port, 1)
    bench.session.gate = AuditedGate(sink, author, wear, bench.clock)  # type: ignore[arg-type]
    return sink


@pytest.mark.criterion("MW-20")
def test_every_write_has_one_row_and_an_intent_before_it_leaves(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        sink = gated(bench, tmp_path)
        bench.fault("clamp", value=50)
        await execute(bench.session, bench.setpoint(80))
        await execute(bench.session, bench.setpoint(50))
        (intent, _), (event, row) = sink.rows
        assert (intent, event) == ("WRITE_INTENT", "WRITE"), "an unchanged level is no write"
        assert (row["raw_before"], row["raw_sent"], row["raw_after"]) == (
            "0000 9C40",
            "0001 3880",
            "0000 C350",
        )
        assert (row["outcome"], row["reason"], row["ticket"]) == ("rejected", "a reason", "OPS-7")
        assert (row["endpoint"], row["unit"]) == (f"127.0.0.1:{bench.port}", 1)
        assert (row["table"], row["address"]) == ("holding", 0)
        assert row["samples"][-1]["value"] == 50
        assert row["attempts"][0]["answer"] == "acknowledged"
        assert {"who", "host", "commit", "at"} <= set(row)
        json.dumps(row)

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-20")
def test_without_an_audit_only_writes_towards_zero_leave(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        sink = gated(bench, tmp_path)
        sink.up = False
        await bench.client.write(1, 20, [50])
        for risky in (bench.setpoint(41), bench.setpoint(-1), bench.plan("limit_kw", 0)):
            refused = await execute(bench.session, risky)
            assert refused.outcome is Outcome.BLOCKED_BY_INTERLOCK
            assert "disk full" in refused.message
        assert len(bench.writes) == 1, "only the test's own"
        for value in (39, 0):
            assert (await execute(bench.session, bench.setpoint(value))).outcome is Outcome.VERIFIED
        assert [row["outcome"] for row in sink.spooled] == ["verified", "verified"]
        stop = recipe_requests(bench.places, "stop", verify=QUICK)
        assert [request.safety for request in stop] == ["always", "always"]
        sink.spool_up = False
        sink.up = True
        await execute(bench.session, bench.setpoint(20))
        sink.up = False
        await execute(bench.session, bench.setpoint(0))
        gate = bench.session.gate
        assert isinstance(gate, AuditedGate)
        assert "LOST" in gate.warnings[-1]

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-20")
def test_rows_of_the_spool_come_into_the_chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATIONKEEPER_AUDIT_SPOOL", str(tmp_path / "spool"))
    paths = AuditPaths(tmp_path / "audit")
    sink = AuditSink(paths, "run-1")
    sink.append("WRITE", {"value": "1"})
    paths.private_key.chmod(0o644)
    broken = AuditSink(paths, "run-1")
    with pytest.raises(SinkError, match="signing_key"):
        broken.append("WRITE", {"value": "2"})
    broken.spool("WRITE", {"value": "2"}, datetime.now(UTC))
    (spooled,) = (tmp_path / "spool").iterdir()
    assert json.loads(spooled.read_text())["run_id"] == "run-1"


@pytest.mark.criterion("MW-19")
def test_a_cyclic_writer_to_flash_is_refused(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        gated(bench, tmp_path)
        first = await execute(bench.session, bench.plan("saved_kw", 5))
        assert first.outcome is Outcome.VERIFIED
        twice = await execute(bench.session, bench.plan("saved_kw", 4))
        assert twice.outcome is Outcome.VERIFIED, "a recipe may disable and enable in one run"
        gated(bench, tmp_path)
        refused = await execute(bench.session, bench.plan("saved_kw", 6))
        assert refused.outcome is Outcome.BLOCKED_BY_INTERLOCK
        assert "its storage is flash: more than one write in 60 s wears it out" in refused.message
        assert (await execute(bench.session, bench.plan("saved_kw", 4))).outcome is Outcome.UNCHANGED
        bench.session.dry_run = True
        planned = await execute(bench.session, bench.plan("saved_kw", 6))
        assert planned.outcome is Outcome.BLOCKED_BY_INTERLOCK, "check mode says so too"
        bench.session.dry_run = False
        unknown = await execute(bench.session, bench.plan("limit_kw", 5))
        assert unknown.outcome is Outcome.VERIFIED
        gated(bench, tmp_path)
        again = await execute(bench.session, bench.plan("limit_kw", 6))
        assert again.outcome is Outcome.BLOCKED_BY_INTERLOCK, "unknown may be flash"
        ram = bench.plan("limit_kw", 6, storage="ram")
        assert (await execute(bench.session, ram)).outcome is Outcome.VERIFIED
        await bench.clock.sleep(60)
        assert (await execute(bench.session, bench.plan("saved_kw", 6))).outcome is Outcome.VERIFIED
        assert len(bench.writes) == 5

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-19")
def test_wear_is_remembered_across_runs_and_never_keeps_zero_away(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        sink = gated(bench, tmp_path)

        def flash(value: float) -> Plan:
            return bench.plan("power_command_kw", value, storage="flash")

        assert (await execute(bench.session, flash(50))).outcome is Outcome.VERIFIED
        gated(bench, tmp_path)
        assert (await execute(bench.session, flash(60))).outcome is Outcome.BLOCKED_BY_INTERLOCK
        assert (await execute(bench.session, flash(0))).outcome is Outcome.VERIFIED
        assert sink.rows

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-19")
def test_a_ledger_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    ledger = WearLedger(tmp_path, "host", 502, 1)
    (tmp_path / "host_502_1.json").write_text('["no map"]')

    async def scenario(bench: Bench) -> None:
        with pytest.raises(ModbusError, match=r"host_502_1\.json"):
            ledger.check(bench.plan("saved_kw", 5), bench.clock.utc())
        (tmp_path / "host_502_1.json").unlink()
        ledger.note(bench.plan("saved_kw", 5).place, bench.clock.utc() + timedelta(hours=1))
        ledger.check(bench.plan("saved_kw", 5), bench.clock.utc())

    run(tmp_path, scenario)


def job_of(bench: Bench, build: Any, *points: str, **changes: Any) -> Job:
    device = Device("127.0.0.1", bench.port, response_timeout_s=10, connect_timeout_s=10)
    job = Job(device, build, bench.profile, points, bench.session.patience)
    return replace(job, **changes)


@pytest.mark.criterion("MW-14")
def test_a_job_waits_for_the_endpoint_and_then_says_who_has_it(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        def build(places: ProfilePlaces | None) -> Work:
            assert places is not None
            return Work("single", (replace(point_request(places, "limit_kw", 7), verify=QUICK),))

        job = job_of(bench, build, "limit_kw", lock_timeout_s=0.2)
        clock: Any = bench.clock
        locks = tmp_path / "locks" / "endpoints"
        async with endpoint_lock(locks, "127.0.0.1", bench.port, timeout_s=5, owner="somebody"):
            with pytest.raises(EndpointBusyError, match="somebody") as busy:
                await carry_out(job, clock=clock, sink=Sink(), directory=tmp_path)
        assert busy.value.outcome is Outcome.BLOCKED_BY_INTERLOCK
        assert bench.requests() == []
        done = await carry_out(job, clock=clock, sink=Sink(), directory=tmp_path)
        assert (done.outcome, done.changed) == (Outcome.VERIFIED, True)

    run(tmp_path, scenario)


def test_a_scale_factor_is_read_in_the_same_run_and_the_value_checked_before_it(tmp_path: Path) -> None:
    points = profile_content()["points"] | {
        "scaled_kw": {"table": "holding", "address": 60, "type": "int16", "scale_factor": "scaled_sf"},
        "scaled_sf": {"table": "holding", "address": 61, "type": "int16"},
    }

    async def scenario(bench: Bench) -> None:
        def build(value: Any) -> Any:
            def make(places: ProfilePlaces | None) -> Work:
                assert places is not None
                request = point_request(places, "scaled_kw", value)
                return Work("single", (replace(request, maximum=100, verify=QUICK),))

            return make

        clock: Any = bench.clock
        for wrong in ("nan", 101):
            with pytest.raises(ModbusError, match=r"finite|bounds"):
                await carry_out(
                    job_of(bench, build(wrong), "scaled_kw"), clock=clock, sink=Sink(), directory=tmp_path
                )
        assert bench.requests() == []
        bench.fault("scale_factor_change", point="scaled_sf", value=-2)
        job = job_of(bench, build(1.25), "scaled_kw")
        done = await carry_out(job, clock=clock, sink=Sink(), directory=tmp_path)
        assert (done.outcome, done.steps[0].words) == (Outcome.VERIFIED, (125,))

    run(tmp_path, scenario, points=points)


@pytest.mark.criterion("MW-15")
def test_a_broadcast_is_sent_and_not_verified(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        bench.session.unit = 0
        sent = bench.plan("limit_kw", 7, semantic="refresh", verify=Verify(mode="none"))
        result = await execute(bench.session, sent)
        assert result.outcome is Outcome.ACCEPTED_UNVERIFIED
        assert "a broadcast proves nothing" in result.message
        assert await bench.client.read(1, "holding", 20, 1) == [70]

    run(tmp_path, scenario)


@pytest.mark.criterion("MW-6", "MW-20")
def test_a_partial_group_is_ended_also_without_an_audit(tmp_path: Path) -> None:
    async def scenario(bench: Bench) -> None:
        sink = gated(bench, tmp_path)
        zero = [plan(request) for request in recipe_requests(bench.places, "zero_power", verify=QUICK)]
        append = sink.append

        def fail_after_first(event: str, data: Mapping[str, Any]) -> None:
            append(event, data)
            sink.up = event != "WRITE"

        sink.append = fail_after_first  # type: ignore[method-assign]
        result = await run_group(bench.session, [bench.plan("limit_kw", 5), bench.setpoint(50)], zero)
        assert (result.failed, result.written) == (True, ["limit_kw"])
        assert result.on_partial[0].outcome is Outcome.VERIFIED
        assert len(sink.spooled) == 1

    run(tmp_path, scenario)
