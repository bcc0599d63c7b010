"""Values whose scale lies in the device: a power of ten, a rating that percents refer to. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from decimal import Decimal

from stationkeeper.modbus.codec import Encoding, decode
from stationkeeper.profiles.schema import Point, Profile

# What the companions of a scaled point multiply it by; None where the device does not say.
Factors = Mapping[str, Decimal | None]

# SunSpec's range of exponents; beyond it lies its value for "not implemented".
_LARGEST_EXPONENT = 10


def factor_of(profile: Profile, name: str, words: Mapping[str, Sequence[int]]) -> Decimal | None:
    """Return what the raw value of `name` is multiplied by apart from its own `scale`.

    `words` holds the registers of its companions. None when the device does not have one of them, or says
    an exponent that cannot be: then the value is missing, whatever its own register says.
    """
    point = profile.points[name]
    factor = Decimal(1)
    if point.scale_factor is not None:
        exponent = decode(words[point.scale_factor], profile.points[point.scale_factor].encoding)
        if exponent is None or abs(int(exponent)) > _LARGEST_EXPONENT:
            return None
        factor = Decimal(10) ** int(exponent)
    if point.base is not None:
        base = value_of(profile, point.base, words)
        # A percentage of nothing can be neither told nor commanded.
        if not base:
            return None
        factor *= Decimal(str(base))
    return factor


def value_of(profile: Profile, name: str, words: Mapping[str, Sequence[int]]) -> int | float | None:
    """Return the engineering value of `name`; `words` holds its registers and those of its companions."""
    point = profile.points[name]
    factor = factor_of(profile, name, words)
    if factor is None:
        return None
    value = decode(words[name], scaled_encoding(point, factor))
    return float(value) if isinstance(value, Decimal) else value


def scaled_encoding(point: Point, factor: Decimal) -> Encoding:
    """Return the point's encoding with what its companions say."""
    return dataclasses.replace(point.encoding, scale=point.scale * factor) if factor != 1 else point.encoding
