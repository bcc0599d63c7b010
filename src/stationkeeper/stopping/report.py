"""The report of a stop: JSON for programs and text for people, written whatever else fails."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stationkeeper.files import write_atomically
from stationkeeper.stopping.orders import needs_order

NOTICE = (
    "This is not a certified safety function. It complements, and never replaces, the hardware stop and the "
    "battery's own protection. Where zero is not proven, use those."
)


def write_report(directory: Path, name: str, report: Mapping[str, Any]) -> tuple[Path, str]:
    """Write `<name>.json` and `<name>.txt`; return the JSON's path and a warning, empty when all is well.

    A directory that takes no file is replaced by one of the system's for temporary files. Raises OSError when
    that fails too.
    """
    try:
        return _write(directory, name, report), ""
    except OSError as error:
        place = Path(tempfile.mkdtemp(prefix="stationkeeper-stops-"))
        return _write(place, name, report), f"{directory}: {error.strerror}; the report is in {place}"


def _write(directory: Path, name: str, report: Mapping[str, Any]) -> Path:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for suffix, text in (("json", json.dumps(report, indent=2) + "\n"), ("txt", as_text(report))):
        write_atomically(directory / f"{name}.{suffix}", text)
    return directory / f"{name}.json"


def name_of(started_at: str, run_id: str) -> str:
    """Return a report's name, which sorts by time; ``started_at`` is UTC in RFC 3339."""
    return f"{started_at[:19].replace(':', '').replace('-', '')}Z-{run_id[:8]}"


def waits(station: Mapping[str, Any]) -> bool:
    """Whether a stop order waits for the station: it has no latch, or one that a reboot forgets."""
    return bool(needs_order(station["evidence"]["latch"]))


def station_of(name: str, result: Mapping[str, Any] | None, contact: str | None) -> dict[str, Any]:
    """Return one station of a report from a runbook's result; one without a result is not stopped."""
    found = dict(result or {"status": "unknown", "message": "the runbook has no result of it"})
    evidence = {"devices": [], "latch": {}, **(found.get("evidence") or {})}
    stopped = found["status"] in ("verified", "unchanged")
    return {**found, "evidence": evidence, "station": name, "contact": contact or "", "stopped": stopped}


def timeline(station: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the steps of one station in their order: ``at`` (UTC, RFC 3339) and ``step``."""
    steps = []
    for device in station["evidence"]["devices"]:
        steps += _device_steps(device)
    latch = station["evidence"]["latch"]
    if latch.get("changed") and latch.get("record") and not latch.get("asked_at"):
        steps.append({"at": latch["record"]["when"], "step": "latch set"})
    if latch.get("asked_at"):
        steps.append({"at": latch["asked_at"], "step": "latch asked over ssh"})
    if latch.get("answered_at"):
        told = "latch stands" if latch.get("latched") else f"NOT latched: {latch.get('error', 'no answer')}"
        steps.append({"at": latch["answered_at"], "step": told})
    for key, text in (
        ("asked_at", "stop asked on the station itself"),
        ("answered_at", "the station answered"),
    ):
        local = station["evidence"].get("local") or {}
        if local.get(key):
            steps.append({"at": local[key], "step": text})
    return sorted(steps, key=lambda step: step["at"])


def plan(station: Mapping[str, Any]) -> list[str]:
    """Return what a check has found would be done at one station, with its paths, recipes and words."""
    lines = [f"  would set the latch over ssh at {station['ssh']}"]
    for device in station["evidence"]["devices"]:
        for write in device["writes"]:
            sent = f"{write['point']} = {write['value']:g} (words {write['words']})"
            lines.append(f"  would write {write['recipe']} to {device['endpoint']}: {sent}")
    return lines


def _device_steps(device: Mapping[str, Any]) -> list[dict[str, str]]:
    name = device["name"]
    steps = []
    if device.get("first_write_at"):
        steps.append({"at": device["first_write_at"], "step": f"{name}: first zero write left"})
    for entry in device.get("history", ()):
        if entry.get("at"):
            steps.append({"at": entry["at"], "step": f"{name}: {entry['state']}"})
    return steps


def as_text(report: Mapping[str, Any]) -> str:
    """Return the report for people."""
    lines = [
        f"Emergency stop {report['run_id']} of {report['system']}"
        + (" (check: nothing was written)" if report["check"] else ""),
        f"Reason: {report['reason'] or '-'}   By: {report['owner']}",
        f"Started {report['started_at']}, reported {report['reported_at']}",
        NOTICE,
        "",
    ]
    lines += summary(report["stations"])
    for station in report["stations"]:
        lines += ["", f"{station['station']}: {station['message']}"]
        if report["check"]:
            lines += plan(station)
        else:
            lines += [f"  {step['at']}  {step['step']}" for step in timeline(station)]
    for title, entries in (("Stop orders that wait", report["pending"]), ("Warnings", report["warnings"])):
        if entries:
            lines += ["", f"{title}:", *(f"  {entry}" for entry in entries)]
    return "\n".join(lines) + "\n"


def summary(stations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the counts, and the list of whom to call."""
    stopped = [station for station in stations if station["stopped"]]
    lines = [f"{len(stopped)} of {len(stations)} stations are proven stopped."]
    calls = [
        f"  {station['station']}: {station['contact'] or 'no contact in the inventory'}"
        for station in stations
        if not station["stopped"]
    ]
    return [*lines, "Call:", *calls] if calls else lines
