"""SunSpec devices: where their models lie, and a profile brought to their addresses.

A SunSpec device has the marker "SunS" at one of three addresses, and after it a chain of models, each with
its number and length, in an order that the manufacturer chose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from pydantic import BaseModel

from stationkeeper.modbus.client import StrictClient, Table
from stationkeeper.modbus.errors import DeviceExceptionError, ModbusError
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.profiles.parts import Block, Point, Telemetry
from stationkeeper.profiles.schema import Profile

BASES = (40000, 0, 50000)
MARKER = [0x5375, 0x6E53]
END = 0xFFFF

_COMMON = 1
# Far more than any device has; a chain that is longer runs in a circle or through noise.
_MOST_MODELS = 100
_HEADER = 2
# Exceptions by which a device says that nothing lies at an address.
_NOTHING_THERE = (1, 2, 3)

_resolved: WeakKeyDictionary[StrictClient, dict[tuple[int, str], tuple[Profile, Profile]]] = (
    WeakKeyDictionary()
)


class SunSpecError(ModbusError):
    """A device that is not what a SunSpec profile says; nothing is written to it."""

    def __init__(self, message: str) -> None:
        super().__init__(Outcome.BLOCKED_BY_INTERLOCK, message)


@dataclass(frozen=True, slots=True)
class Model:
    """One model on a device: `address` of its ID register, `length` in registers after the header of two."""

    number: int
    address: int
    length: int


@dataclass(frozen=True, slots=True)
class Nameplate:
    """The strings of model 1."""

    manufacturer: str
    model: str
    options: str
    version: str
    serial_number: str


async def find_models(client: StrictClient, unit: int) -> tuple[Model, ...]:
    """Return the device's models in their order. Raises `SunSpecError` for a device without a sound chain."""
    for base in BASES:
        try:
            found = await client.read(unit, Table.HOLDING, base, len(MARKER))
        except DeviceExceptionError as error:
            if error.code not in _NOTHING_THERE:
                raise
            continue
        if found == MARKER:
            return await _chain(client, unit, base + len(MARKER))
    raise SunSpecError(f"unit {unit} has no SunSpec marker at {', '.join(map(str, BASES))}")


async def _chain(client: StrictClient, unit: int, address: int) -> tuple[Model, ...]:
    models: list[Model] = []
    while len(models) < _MOST_MODELS:
        if address + _HEADER > 0x10000:
            raise SunSpecError(f"unit {unit}: the chain of models runs beyond register 65535")
        number, length = await client.read(unit, Table.HOLDING, address, _HEADER)
        if number == END:
            return tuple(models)
        if not number or not length:
            raise SunSpecError(f"unit {unit}: no model at {address}, where the chain leads (no end 0xFFFF)")
        models.append(Model(number, address, length))
        address += _HEADER + length
    raise SunSpecError(f"unit {unit}: more than {_MOST_MODELS} models, the chain has no end")


async def read_nameplate(client: StrictClient, unit: int, models: Sequence[Model]) -> Nameplate:
    """Return the device's nameplate. Raises `SunSpecError` without a model 1 of its proper length."""
    common = next((model for model in models if model.number == _COMMON), None)
    if common is None or common.length < 64:
        raise SunSpecError(f"unit {unit} has no model 1 (nameplate)")
    words = await client.read(unit, Table.HOLDING, common.address + _HEADER, 64)
    return Nameplate(*(_text(words[first:last]) for first, last in _NAMEPLATE))


_NAMEPLATE = ((0, 16), (16, 32), (32, 40), (40, 48), (48, 64))


def _text(words: Sequence[int]) -> str:
    data = b"".join(word.to_bytes(2, "big") for word in words)
    return data.split(b"\0")[0].decode("utf-8", "replace").strip()


async def concrete(client: StrictClient, unit: int, profile: Profile) -> Profile:
    """Return the profile with addresses of this device; one without models as it is.

    The models are searched when the connection is new, so a device that was exchanged or updated is found
    out, and are remembered as long as it lives.
    """
    if not profile.addresses_models:
        return profile
    known = _resolved.setdefault(client, {})
    entry = known.get((unit, profile.name))
    if entry is None or entry[0] is not profile or not client.connected:
        entry = (profile, resolve(profile, await find_models(client, unit)))
        known[(unit, profile.name)] = entry
    return entry[1]


def resolve(profile: Profile, models: Sequence[Model]) -> Profile:
    """Return the profile with the addresses that its points have on a device with these models.

    Of several models that a point may lie in, the first that the device has is taken; of a model that the
    device has several times, its first. Raises `SunSpecError` for a model that is missing or too short.
    """
    points = {name: _place(profile, name, point, models) for name, point in profile.points.items()}
    blocks = [_place_block(profile, block, models) for block in profile.telemetry.blocks]
    telemetry = Telemetry(**_fields(blocks[0]), more=blocks[1:], points=profile.telemetry.points)
    return Profile.model_validate({**_fields(profile), "points": points, "telemetry": telemetry})


def _place(profile: Profile, name: str, point: Point, models: Sequence[Model]) -> Point:
    if not point.model:
        return point
    model = _choose(profile, point.model, models)
    if point.address + point.count > _HEADER + model.length:
        raise SunSpecError(
            f"model {model.number} of this device has {model.length} registers, so no {name} of profile "
            f"{profile.name}"
        )
    place = {"model": [], "address": model.address + point.address}
    # Without its model, a point keeps SunSpec's value for "not implemented" only when it is spelt out.
    return Point.model_validate(
        {**_fields(point), **place, "not_implemented": point.encoding.not_implemented}
    )


def _place_block(profile: Profile, block: Block, models: Sequence[Model]) -> Block:
    if not block.model:
        return Block(table=block.table, address=block.address, count=block.count)
    model = _choose(profile, block.model, models)
    # Optional registers at the end of a model may be left out.
    count = min(block.count, _HEADER + model.length - block.address)
    return Block(table=block.table, address=model.address + block.address, count=count)


def _choose(profile: Profile, numbers: Sequence[int], models: Sequence[Model]) -> Model:
    for number in numbers:
        for model in models:
            if model.number == number:
                return model
    wanted = " or ".join(map(str, numbers))
    has = ", ".join(str(model.number) for model in models)
    raise SunSpecError(
        f"profile {profile.name} needs SunSpec model {wanted}; this device has {has or 'none'}"
    )


def _fields(part: BaseModel) -> dict[str, Any]:
    # Not dict(part): that has what was calculated from the fields, too.
    return {name: getattr(part, name) for name in type(part).model_fields}
