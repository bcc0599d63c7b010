"""Requests from a caller's parameters, as the modules `modbus_write` and `modbus_read` take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from stationkeeper.modbus.client import Table
from stationkeeper.modbus.codec import CodecError, DataType, Encoding
from stationkeeper.modbus.errors import RequestError
from stationkeeper.modbus.reading import Place, parse_reference
from stationkeeper.modbus.writing.interlocks import Given, Interlock, Latch, Moving
from stationkeeper.modbus.writing.points import ProfilePlaces, point_request, setpoint_names
from stationkeeper.modbus.writing.request import Request, Verify, number
from stationkeeper.profiles.schema import Profile

Parameters = Mapping[str, Any]

_WINDOW_S = 5.0
_UNPROFILED_INTERVAL_S = 60.0


def raw_place(parameters: Parameters, *, name: str | None = None) -> Place:
    """Return the place that `address` or `reference`, `table`, `type` and so on describe."""
    address, reference = parameters["address"], parameters["reference"]
    if (address is None) == (reference is None):
        raise RequestError("give either the 0-based `address` (with `table`), or a `reference` like '40001'")
    table = Table(parameters["table"] or Table.HOLDING)
    if reference is not None:
        referenced, address = parse_reference(reference)
        if parameters["table"] and referenced is not table:
            raise RequestError(
                f"reference {reference} is in table {referenced}, not {table}; drop one of them"
            )
        table = referenced
    kind = DataType(parameters["type"] or (DataType.BIT if table.is_bits else DataType.UINT16))
    try:
        encoding = Encoding(
            kind,
            parameters["word_order"],
            parameters["byte_order"],
            number(parameters["scale"], "scale"),
            number(parameters["offset"], "offset"),
            parameters["bit"],
            parameters["mask"],
            parameters["not_implemented"],
        )
    except CodecError as error:
        raise RequestError(str(error)) from None
    title = name or parameters.get("name") or f"{table} {address}"
    return Place(title, table, address, encoding, parameters.get("engineering_unit") or "")


def is_raw(parameters: Parameters) -> bool:
    """True when a register is described, not named by its point in a profile."""
    return parameters["address"] is not None or parameters["reference"] is not None


def place_of(parameters: Parameters, places: ProfilePlaces | None, what: str) -> Place:
    """Return the place of a `point` of the profile, or of a description."""
    point = parameters["point"]
    if (point is not None) == is_raw(parameters):
        raise RequestError(f"{what} needs either `point` (with a profile), or `address` or `reference`")
    if point is None:
        return raw_place(parameters)
    if places is None:
        raise RequestError(f"{what}: point {point!r} needs a `profile`")
    return places.place(point)


def request_of(
    parameters: Parameters,
    places: ProfilePlaces | None,
    interlocks: tuple[Interlock, ...],
) -> Request:
    """Return one write. Raises `RequestError`."""
    point, value = parameters["point"], parameters["value"]
    if value is None:
        raise RequestError("a write needs a `value`")
    place = place_of(parameters, places, "a write")
    if point is not None and places is not None:
        request = point_request(places, point, value)
    else:
        request = Request(place, value, min_write_interval_s=_UNPROFILED_INTERVAL_S)
    given: dict[str, Any] = {
        "minimum": _tighter(request.minimum, parameters["min"], max),
        "maximum": _tighter(request.maximum, parameters["max"], min),
        "max_step": parameters["max_step"],
        "rounding": parameters["rounding"],
        "expect": parameters["expect"],
        "semantic": parameters["semantic"],
        "function": None if parameters["function"] == "auto" else int(parameters["function"]),
        "interlocks": (*request.interlocks, *interlocks),
        "atomic": parameters["atomic"],
        "write_only": parameters["write_only"],
        "storage": parameters["storage"],
        "min_write_interval_s": parameters["min_write_interval_s"],
        "safety": "towards_zero" if parameters["zero_is_safe"] else None,
    }
    request = replace(request, **{name: entry for name, entry in given.items() if entry is not None})
    return replace(request, verify=verify_of(parameters["verify"] or {}, places, request, point))


def verify_of(
    parameters: Parameters, places: ProfilePlaces | None, request: Request, point: str | None
) -> Verify:
    """Return how the write is proven; a set-point of a profile by the set-point in force."""
    profile = places.profile if places else None
    verify = pace_of(parameters, profile)
    mode = parameters.get("mode")
    described = bool(parameters) and (parameters["point"] is not None or is_raw(parameters))
    if mode is None and described:
        mode = "readback"
    if mode is None and profile and profile.verify and point in setpoint_names(profile):
        place = places.place(profile.verify.point) if places else None
        tolerance = verify.tolerance if verify.tolerance is not None else _tolerance(profile, place)
        return replace(verify, mode="readback", place=place, tolerance=tolerance)
    if mode == "readback":
        return replace(verify, mode="readback", place=place_of(parameters, places, "verify.mode readback"))
    if described:
        raise RequestError(f"verify.mode {mode} reads no other register; drop it, or set mode to readback")
    return replace(verify, mode=mode or "register")


def pace_of(parameters: Parameters, profile: Profile | None) -> Verify:
    """Return the pace of the proof; the window is five seconds longer than the profile's latency."""
    latency_s = profile.apply_latency_s if profile else 0.0
    window_s = parameters.get("window_s")
    defaults = Verify()
    return Verify(
        value=parameters.get("value"),
        tolerance=parameters.get("tolerance"),
        window_s=_WINDOW_S + latency_s if window_s is None else window_s,
        interval_s=parameters.get("interval_s", defaults.interval_s),
        samples=parameters.get("samples", defaults.samples),
        hold_s=parameters.get("hold_s", defaults.hold_s),
        other_master_cycle_s=parameters.get("other_master_cycle_s", defaults.other_master_cycle_s),
    )


def interlock_of(parameters: Parameters, places: ProfilePlaces | None, value: Any) -> list[Interlock]:
    """Return the interlocks that one entry describes; `value` is the set-point that is to be written."""
    kind = parameters["kind"]
    name = parameters["name"] or kind.replace("_", " ")
    if kind == "condition":
        return [_condition(parameters, places, name)]
    if kind == "latch":
        latch = Latch(Path(parameters["path"]))
        return [Interlock(name, latch, equals=Decimal(0), when="not_towards_zero")]
    if places is None:
        raise RequestError(f"interlock {kind} needs a `profile`; without one use kind condition")
    profile = places.profile
    if kind == "fresh":
        place = places.place(parameters["point"] or profile.heartbeat)
        return [Interlock(name, Moving(place, parameters["max_age_s"]))]
    if kind == "alarms":
        if profile.alarm_point is None:
            raise RequestError(f"profile {profile.name} names no alarm_point; use kind condition")
        place = places.place(profile.alarm_point)
        return [Interlock(name, place, equals=Decimal(0), when="not_towards_zero")]
    if kind == "soe_window":
        return _soe_window(parameters, places, name)
    step = number(parameters["max_step"], "interlocks: max_step of measured_step")
    measured, wanted = places.place(parameters["point"] or profile.measured_power), number(value, "value")
    return [Interlock(name, measured, minimum=wanted - step, maximum=wanted + step, when="not_towards_zero")]


def interlock_points(entry: Parameters, profile: Profile) -> list[str]:
    """Return the points that an interlock reads."""
    if entry["point"] is not None:
        return [entry["point"]]
    of_kind = {
        "fresh": profile.heartbeat,
        "alarms": profile.alarm_point,
        "soe_window": "soe_percent",
        "measured_step": profile.measured_power,
    }
    point = of_kind.get(entry["kind"])
    return [point] if point in profile.points else []


def _condition(parameters: Parameters, places: ProfilePlaces | None, name: str) -> Interlock:
    bounds = {
        field: number(parameters[key], f"interlock {name}: {key}", bit=True)
        for field, key in (
            ("equals", "equals"),
            ("differs", "not_equals"),
            ("minimum", "min"),
            ("maximum", "max"),
        )
        if parameters[key] is not None
    }
    if not bounds:
        raise RequestError(f"interlock {name} has no condition: give equals, not_equals, min or max")
    if parameters["point"] is not None or is_raw(parameters):
        return Interlock(name, place_of(parameters, places, name), when=parameters["when"], **bounds)
    value = parameters["value"]
    given = Given(
        # Empty text is what a template gives for an input that is missing.
        None if value is None or value == "" else number(value, f"interlock {name}: value", bit=True),
        _moment(parameters["read_at"], name),
        parameters["max_age_s"],
    )
    return Interlock(name, given, when=parameters["when"], **bounds)


def _soe_window(parameters: Parameters, places: ProfilePlaces, name: str) -> list[Interlock]:
    limits = places.profile.limits
    if limits is None:
        raise RequestError(f"profile {places.profile.name} has no limits for interlock soe_window")
    place = places.place(parameters["point"] or "soe_percent")
    low, high = Decimal(str(limits.min_soe_percent)), Decimal(str(limits.max_soe_percent))
    return [
        Interlock(name, place, minimum=low, when="discharging"),
        Interlock(name, place, maximum=high, when="charging"),
    ]


def _moment(text: str | None, name: str) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise RequestError(f"interlock {name}: read_at {text!r} is not a time with its offset from UTC")
    return moment


def _tighter(bound: Any, given: Any, choose: Any) -> Any:
    """A caller may narrow a profile's limits, never widen them."""
    if bound is None or given is None:
        return given if bound is None else bound
    return choose(number(bound, "limit"), number(given, "min or max"))


def _tolerance(profile: Profile, place: Place | None) -> Decimal | None:
    if place is None or profile.verify is None:
        return None
    return max(profile.verify.tolerance, abs(place.encoding.scale) / 2)
