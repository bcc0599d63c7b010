"""A SunSpec device as it is laid out: marker, chain of models, and scale factors that fit its size. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from stationkeeper.profiles.schema import Block, Point, Profile
from stationkeeper.profiles.sunspec import BASES, END, MARKER, Model, resolve
from stationkeeper.simulator.registers import largest_raw

_COMMON, _COMMON_LENGTH = 1, 66
_HEADER = 2
# Manufacturer, model, options, version, serial number: their registers in model 1.
_NAMEPLATE = (("Stationkeeper", 16), ("", 16), ("simulated", 8), ("1.0", 8), ("1", 16))
_EXPONENTS = range(-3, 6)
_HEADROOM = Decimal("1.2")


def lay_out(profile: Profile) -> tuple[Profile, dict[int, int]]:
    """Return the profile at the addresses that this device has, and the holding registers besides its points.

    The models come in the order in which the profile first names them, each as long as the profile needs.
    A profile without models comes back as it is.
    """
    if not profile.addresses_models:
        return profile, {}
    ends: dict[int, int] = {}
    parts: list[Point | Block] = [*profile.points.values(), *profile.telemetry.blocks]
    for part in parts:
        if part.model:
            number = part.model[0]
            ends[number] = max(ends.get(number, _HEADER + 1), part.address + part.count)
    address = BASES[0] + len(MARKER)
    models = [Model(_COMMON, address, _COMMON_LENGTH)]
    for number, end in ends.items():
        last = models[-1]
        models.append(Model(number, last.address + _HEADER + last.length, end - _HEADER))
    words = dict(enumerate(MARKER, BASES[0]))
    for model in models:
        place = range(model.address, model.address + _HEADER + model.length)
        words |= dict.fromkeys(place, 0xFFFF) | {model.address: model.number, model.address + 1: model.length}
    words |= dict(enumerate(_nameplate(profile.name), address + _HEADER))
    end = models[-1].address + _HEADER + models[-1].length
    return resolve(profile, models), words | {end: END, end + 1: 0}


def factors(profile: Profile, references: Mapping[str, float]) -> dict[str, float]:
    """Return an exponent for each scale factor: the finest with which its points can say `references`.

    `references` are the greatest values to be said, by point; a point that is not in it needs nothing.
    """
    users: dict[str, list[str]] = {}
    for name, point in profile.points.items():
        if point.scale_factor is not None:
            users.setdefault(point.scale_factor, []).append(name)
    return {
        factor: float(max(_exponent(profile.points[name], references, name) for name in names))
        for factor, names in users.items()
    }


def _exponent(point: Point, references: Mapping[str, float], name: str) -> int:
    base = Decimal(str(references[point.base])) if point.base else Decimal(1)
    needed = Decimal(str(references.get(name, 0))) * _HEADROOM
    for exponent in _EXPONENTS:
        if needed <= largest_raw(point) * abs(point.scale) * base * Decimal(10) ** exponent:
            return exponent
    return _EXPONENTS[-1]


def _nameplate(model: str) -> list[int]:
    words: list[int] = []
    for text, count in _NAMEPLATE:
        data = (text or model).encode()[: 2 * count].ljust(2 * count, b"\0")
        words += [int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2)]
    return words
