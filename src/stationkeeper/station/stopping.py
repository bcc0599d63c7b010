"""The emergency stop of a station: what to write over Modbus, and what the two paths add up to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

VERIFIED_ZERO = "VERIFIED_ZERO"
_STATUS = {"CONTENDED": "contended", "FAILED": "failed"}
# Where the centre did not get through, the station's own bus may still be alive.
_OUT_OF_REACH = ("UNREACHABLE_DEADMAN_PENDING", "UNKNOWN", "READBACK_ONLY")


def stop_targets(station: str, devices: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the station's batteries, each with the meter that measures it, for the direct path.

    Raises KeyError, TypeError or ValueError for a device that is declared wrongly.
    """
    meters = {str(device["measures"]): device for device in devices if device.get("measures")}
    targets = []
    for device in devices:
        if device["type"] != "bess":
            continue
        target = {"station": station, "name": str(device["name"]), **_end(device)}
        if device.get("rating_kw") is not None:
            target["rating_kw"] = float(device["rating_kw"])
        if target["name"] in meters:
            target["meter"] = _end(meters[target["name"]])
        targets.append(target)
    return targets


def _end(device: Mapping[str, Any]) -> dict[str, Any]:
    modbus = device["modbus"]
    return {
        "host": str(modbus["host"]),
        "port": int(modbus.get("port", 502)),
        "unit": int(modbus["unit"]),
        "profile": str(device["profile"]),
    }


def all_stop_targets(
    stations: Mapping[str, Sequence[Mapping[str, Any]]],
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Return the batteries of all stations, and for each station why nothing can be written to it, if so.

    One station that is declared wrongly must not keep the others from being stopped.
    """
    targets: list[dict[str, Any]] = []
    problems = {}
    for station, devices in stations.items():
        try:
            own = stop_targets(station, devices)
        except (KeyError, TypeError, ValueError) as error:
            problems[station] = (
                f"the inventory declares its devices wrongly ({type(error).__name__}: {error})"
            )
            continue
        targets += own
        if not own:
            problems[station] = "the inventory declares no battery here"
    return targets, problems


def needs_local_stop(results: Sequence[Mapping[str, Any]], latch: Mapping[str, Any]) -> bool:
    """Whether the stop is to be run on the station itself: ssh works and Modbus from the centre does not."""
    out_of_reach = any(str(result["state"]) in _OUT_OF_REACH for result in results)
    return out_of_reach and not latch.get("unreachable", False)


def with_local(results: Sequence[Mapping[str, Any]], local: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the results with those of the station's own stop in the place of what the centre could not tell.

    ``local`` holds `devices`, results like the centre's, or `error`. What the centre saw is in `from_centre`.
    """
    own = {str(result["name"]): result for result in local.get("devices") or ()}
    merged = []
    for result in results:
        mine = own.get(str(result["name"]))
        if str(result["state"]) not in _OUT_OF_REACH:
            merged.append(dict(result))
        elif mine is None:
            why = local.get("error") or "it does not know this device"
            message = f"{result.get('message', '')}; on the station itself: {why}"
            merged.append({**result, "message": message})
        else:
            merged.append(
                {
                    **mine,
                    "station": result["station"],
                    "changed": bool(result.get("changed")) or bool(mine.get("changed")),
                    "first_write_s": result.get("first_write_s"),
                    "first_write_at": result.get("first_write_at") or mine.get("first_write_at"),
                    "message": f"{mine.get('message', '')} (on the station itself)",
                    "from_centre": dict(result),
                }
            )
    return merged


def judge(
    results: Sequence[Mapping[str, Any]],
    latch: Mapping[str, Any],
    problem: str,
    contact: str,
    *,
    check_mode: bool,
) -> dict[str, Any]:
    """Return the runbook's result for one station: status, message and evidence.

    ``results`` are those of its devices from the direct path. ``latch`` is what the path over ssh gave:
    `latched`, `changed`, `persistent` and, where it failed, `unreachable` or `error`. A station counts as
    stopped only when every battery is measured at zero and the latch stands; unknown is never stopped.
    `pending` is in the result when the latch has to be set once more.
    """
    evidence = {"devices": list(results), "latch": dict(latch)}
    states = [str(result["state"]) for result in results]
    measured = "; ".join(_tell(result) for result in results) or f"FAILED, nothing was sent: {problem}"
    held = _tell_latch(latch, check_mode=check_mode)
    if check_mode:
        status = "unreachable" if latch.get("unreachable") else "ok"
        return {"status": status, "message": f"{measured}; {held}", "evidence": evidence}
    proven = bool(states) and all(state == VERIFIED_ZERO for state in states)
    latched = bool(latch.get("latched"))
    if proven and latched:
        changed = bool(latch.get("changed")) or any(result.get("changed") for result in results)
        status = "verified" if changed else "unchanged"
    elif latch.get("unreachable"):
        # Whatever Modbus says, the order stays pending until the station has its latch.
        status = "unreachable"
    elif proven:
        status = "failed"
    else:
        bad = [state for state in states if state != VERIFIED_ZERO]
        status = _STATUS.get(bad[0], "unknown") if bad else "failed"
    text = f"{measured}; {held}"
    if not (proven and latched):
        call = f" (call {contact})" if contact else ""
        text = f"NOT proven stopped{call}: {text}"
    # What a reboot forgets has to be set again, so the order stays.
    pending = {"pending": held} if latched and latch.get("persistent") is False else {}
    return {"status": status, "message": text, "evidence": evidence, **pending}


def _tell(result: Mapping[str, Any]) -> str:
    state = str(result["state"])
    if state == VERIFIED_ZERO:
        meter = result.get("meter_power_kw")
        by_meter = "" if meter is None else f", meter {meter:+.1f}"
        power = result.get("power_kw")
        shown = "" if power is None else f" {power:+.1f} kW{by_meter}"
        return f"{state}{shown}"
    return f"{state}: {result.get('message') or 'no further word'}"


def _tell_latch(latch: Mapping[str, Any], *, check_mode: bool) -> str:
    if latch.get("unreachable"):
        return "NOT latched, no ssh"
    if not latch.get("latched"):
        return f"NOT latched: {latch.get('error') or 'the station gave no answer'}"
    if check_mode and latch.get("changed"):
        return "would be latched"
    if latch.get("persistent") is False:
        return "latched in memory only, a reboot forgets it"
    return "latched" if latch.get("changed") else "was latched already"
