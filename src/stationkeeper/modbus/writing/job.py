"""One call of the write module: lock, connect, write one value, a group or a recipe, disconnect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.endpoint_lock import default_directory, endpoint_lock
from stationkeeper.modbus.errors import RequestError
from stationkeeper.modbus.writing.clock import Clock
from stationkeeper.modbus.writing.device import Device
from stationkeeper.modbus.writing.execute import execute
from stationkeeper.modbus.writing.group import GroupResult, run_group, run_recipe
from stationkeeper.modbus.writing.journal import AuditedGate, AuditSink, Author, Sink
from stationkeeper.modbus.writing.points import ProfilePlaces, needs_device
from stationkeeper.modbus.writing.request import Request, check, plan
from stationkeeper.modbus.writing.session import BROADCAST, Patience, Session
from stationkeeper.modbus.writing.wear import WearLedger
from stationkeeper.profiles.schema import Profile
from stationkeeper.runbooks.state import state_directory


@dataclass(frozen=True, slots=True)
class Work:
    """The writes of one call, and those that follow when it fails on the way."""

    kind: Literal["single", "group", "recipe"]
    requests: tuple[Request, ...]
    on_partial: tuple[Request, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """What to write where. `build` makes the requests; `points` are those of the profile that it names."""

    device: Device
    build: Callable[[ProfilePlaces | None], Work]
    profile: Profile | None = None
    points: tuple[str, ...] = ()
    patience: Patience = field(default_factory=Patience)
    dry_run: bool = False
    allow_broadcast: bool = False
    lock_timeout_s: float = 10.0
    reason: str = ""
    ticket: str = ""


def run(job: Job, *, clock: Clock | None = None, sink: Sink | None = None) -> GroupResult:
    """Carry out a job. Raises `ModbusError` for what is refused before the device is looked at."""
    return asyncio.run(carry_out(job, clock=clock or Clock(), sink=sink))


async def carry_out(
    job: Job, *, clock: Clock, sink: Sink | None = None, directory: Path | None = None
) -> GroupResult:
    """Carry out a job in a loop that runs already. `directory` is the state's."""
    state = directory or state_directory()
    ready = _ready_without_device(job)
    device = job.device
    author = Author(str(device), device.unit, job.reason, job.ticket)
    wear = WearLedger(state / "modbus_writes", device.host, device.port, device.unit)
    gate = AuditedGate(sink or AuditSink(), author, wear, clock)
    client = device.client()
    owner = f"modbus_write {job.reason}".strip()
    locks = directory / "locks" / "endpoints" if directory else default_directory()
    async with endpoint_lock(locks, device.host, device.port, timeout_s=job.lock_timeout_s, owner=owner):
        try:
            session = Session(client, device.unit, gate, clock, job.patience, dry_run=job.dry_run)
            work = ready or job.build(await _places(job, client))
            result = await _carry_out(session, work)
        finally:
            await client.close()
    if result.steps:
        result.steps[0].warnings += gate.warnings
    return result


def _ready_without_device(job: Job) -> Work | None:
    """Check all that can be checked before a socket is opened; return the work where that is everything."""
    work = job.build(ProfilePlaces(job.profile) if job.profile else None)
    requests = (*work.requests, *work.on_partial)
    _check_broadcast(job, requests)
    if job.profile and needs_device(job.profile, job.points):
        for request in requests:
            check(request)
        return None
    for request in requests:
        plan(request)
    return work


async def _places(job: Job, client: StrictClient) -> ProfilePlaces | None:
    if job.profile is None:
        return None
    return await ProfilePlaces.on_device(client, job.device.unit, job.profile, job.points)


async def _carry_out(session: Session, work: Work) -> GroupResult:
    plans = [plan(request) for request in work.requests]
    on_partial = [plan(request) for request in work.on_partial]
    if work.kind == "group":
        return await run_group(session, plans, on_partial)
    if work.kind == "recipe":
        return await run_recipe(session, plans, on_partial)
    step = await execute(session, plans[0])
    return GroupResult(step.outcome, step.message, [step], failed=not step.is_acceptable)


def _check_broadcast(job: Job, requests: tuple[Request, ...]) -> None:
    if job.device.unit != BROADCAST:
        return
    if not job.allow_broadcast:
        raise RequestError(
            "unit 0 is a broadcast to every unit of the line; set allow_broadcast if you mean it"
        )
    for request in requests:
        name = request.place.name
        if request.place.table.is_bits or request.place.is_field:
            raise RequestError(f"{name}: only whole registers can be broadcast")
        reads = request.expect is not None or request.max_step is not None or request.interlocks
        if request.verify.mode != "none" or request.semantic == "level" or reads:
            raise RequestError(
                f"{name}: nobody answers a broadcast; set verify.mode to none and semantic to refresh or "
                "pulse, and leave out expect, max_step and interlocks"
            )


def describe(result: GroupResult) -> dict[str, Any]:
    """Return the result as plain data, a single write without the list around it."""
    data = result.as_dict()
    return data | result.steps[0].as_dict() if len(result.steps) == 1 else data
