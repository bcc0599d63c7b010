"""Reads the inputs of interlocks in the same run as the write, and collects what objects to it."""

from __future__ import annotations

from decimal import Decimal

from stationkeeper.modbus.errors import ModbusError
from stationkeeper.modbus.reading import Place, value_of
from stationkeeper.modbus.writing.interlocks import Given, Interlock, Latch, Moving, objection_to_age
from stationkeeper.modbus.writing.request import Plan
from stationkeeper.modbus.writing.session import Session

_HEARTBEAT_INTERVAL_S = 0.2
_LATCH = "emergency_stop.json"


async def objections(session: Session, plan: Plan, *, towards_zero: bool) -> list[str]:
    """Return why the interlocks block the write; nothing when all allow it. Never raises `ModbusError`."""
    found = []
    for interlock in plan.request.interlocks:
        if interlock.applies(plan.value, towards_zero=towards_zero):
            objection = await _objection(session, interlock)
            if objection:
                found.append(objection)
    return found


async def _objection(session: Session, interlock: Interlock) -> str | None:
    source = interlock.source
    try:
        if isinstance(source, Moving):
            return await _objection_to_stillness(session, interlock.name, source)
        if isinstance(source, Given):
            stale = objection_to_age(interlock.name, source, session.clock.utc())
            return stale or interlock.objection(source.value)
        if isinstance(source, Latch):
            return interlock.objection(_latched(source))
        return interlock.objection(await _value(session, source))
    except ModbusError as error:
        return f"{interlock.name}: its input cannot be read: {error.message}"


def _latched(source: Latch) -> Decimal | None:
    """Return 1 for a latch that is set, whatever is in its file; None when that cannot be seen."""
    try:
        return Decimal(any(entry.name == _LATCH for entry in source.folder.iterdir()))
    except OSError:
        return None


async def _value(session: Session, place: Place) -> Decimal | None:
    return value_of(await session.read(place))


async def _objection_to_stillness(session: Session, name: str, source: Moving) -> str | None:
    first = await _value(session, source.place)
    if first is None:
        return f"{name}: its input is missing"
    started = session.clock.now()
    while session.clock.now() - started < source.max_age_s:
        await session.clock.sleep(_HEARTBEAT_INTERVAL_S)
        now = await _value(session, source.place)
        if now is not None and now != first:
            return None
    return f"{name}: {source.place.name} has stood still for {source.max_age_s:g} s, so its values are stale"
