"""What all sections of the controller's configuration share: strictness, durations, times of day."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")


def parse_duration(value: object) -> float:
    """Return seconds from text like ``30s``, ``500ms``, ``1.5m`` or ``2h``. Raises ValueError."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise PydanticCustomError(
            "duration",
            "'{value}' is not a duration; write a number with its unit, like 30s",
            {"value": value},
        )
    return float(match[1]) * _UNITS_S[match[2]]


Duration = Annotated[float, BeforeValidator(parse_duration)]
_CLOCK_TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d|24:00")


def _check_clock_time(value: object) -> object:
    if not isinstance(value, str) or not _CLOCK_TIME.fullmatch(value):
        # YAML reads 02:00 without quotes as the number 120.
        raise PydanticCustomError(
            "clock_time", "'{value}' is not a time of day; write it in quotes, like '02:00'", {"value": value}
        )
    return value


ClockTime = Annotated[str, BeforeValidator(_check_clock_time)]
Percent = Annotated[float, Field(ge=0, le=100)]


class Section(BaseModel):
    """Refuses unknown keys, values of another type, and numbers that are none."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in data:
                if key not in known:
                    close = difflib.get_close_matches(str(key), known, 1)
                    hint = f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(known)}"
                    raise PydanticCustomError(
                        "unknown_key", "unknown key; {hint}", {"hint": hint, "key": key}
                    )
        return data
