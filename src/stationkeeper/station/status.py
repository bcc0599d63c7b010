"""What a station's controller says of itself: unit, running release, metrics, configuration, latch.

Runs on the station with nothing but its python3 (standard library only). Reads only.
"""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from .service import Service, ask
from .service import look as look_at

Labels = dict[str, str]
_LINE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})?\s+(\S+)")
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_EXPOSURE = re.compile(r"Overall exposure level for \S+: ([0-9.]+)")
_UPLOAD_LATE_S = 120.0


@dataclass(frozen=True)
class Expected:
    """What has to hold: devices by name, greatest age of a sample (s), greatest exposure, latch, hold.

    ``hold`` is safe_mode or maintenance where the controller must be in it, none where nothing may hold it.
    """

    devices: tuple[str, ...]
    sample_age_s: float
    exposure_max: float | None = None
    latched: bool | None = None
    hold: str | None = None


@dataclass(frozen=True)
class Status:
    """Problems (the station is not in order), notes (worth knowing), and what was seen."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    latched: bool | None
    samples: dict[str, dict[str, float | None]] = field(default_factory=dict)
    buffer_rows: int | None = None
    exposure: float | None = None
    unit: Service | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for Ansible."""
        return {
            "problems": list(self.problems),
            "notes": list(self.notes),
            "latched": self.latched,
            "samples": self.samples,
            "buffer_rows": self.buffer_rows,
            "exposure": self.exposure,
            "unit": asdict(self.unit) if self.unit else None,
        }


class Metrics:
    """One answer in Prometheus' text format."""

    def __init__(self, text: str) -> None:
        self._series: dict[str, list[tuple[Labels, float]]] = {}
        for line in text.splitlines():
            match = _LINE.match(line)
            if match is None:
                continue
            try:
                value = float(match[3])
            except ValueError:
                continue
            self._series.setdefault(match[1], []).append((dict(_LABEL.findall(match[2] or "")), value))

    def value(self, name: str, **labels: str) -> float | None:
        """Return the first series with these labels, None when there is none."""
        for found, value in self._series.get(name, ()):
            if labels.items() <= found.items():
                return value
        return None

    def raised(self, name: str) -> list[Labels]:
        """Return the labels of all series of one name whose value is not 0."""
        return [labels for labels, value in self._series.get(name, ()) if value]

    def total(self, name: str) -> float:
        """Return the sum over all series of one name, 0 when there is none."""
        return sum(value for _, value in self._series.get(name, ()))


def judge(
    unit: Service, metrics: Metrics | None, expected: Expected, *, now: float, exposure: float | None = None
) -> Status:
    """Compare what was seen with what is expected. ``now`` is in seconds since 1970 UTC."""
    problems = _unit_problems(unit)
    if expected.exposure_max is not None:
        if exposure is None:
            problems.append("systemd-analyze gave no exposure of the unit")
        elif exposure >= expected.exposure_max:
            problems.append(f"the unit's exposure is {exposure}, it must be below {expected.exposure_max:g}")
    if metrics is None:
        problems.append("the controller's metrics do not answer")
        return Status(tuple(problems), (), None, {}, None, exposure, unit)

    latched = metrics.value("stationkeeper_emergency_stop_latched")
    if latched is None:
        problems.append("the controller does not say whether it is latched")
    elif expected.latched is not None and expected.latched != (latched > 0):
        problems.append(f"the controller says that it is {'latched' if latched else 'not latched'}")
    if expected.hold is not None:
        problems += _hold_problems(metrics, expected.hold)
    if metrics.value("stationkeeper_config_valid") != 1:
        problems.append("the configuration on the station is invalid; the last good one is in force")
    if metrics.value("stationkeeper_buffer_writable") == 0:
        problems.append("the controller cannot store samples: its disk is full or read-only")
    samples = {}
    for device in expected.devices:
        sample, problem = _sample(metrics, device, expected.sample_age_s, now)
        samples[device] = sample
        if problem:
            problems.append(problem)

    buffered = metrics.value("stationkeeper_buffer_rows")
    return Status(
        tuple(problems),
        tuple(_notes(metrics, latched, buffered, now, unit.age_s)),
        None if latched is None else latched > 0,
        samples,
        None if buffered is None else int(buffered),
        exposure,
        unit,
    )


def _unit_problems(unit: Service) -> list[str]:
    if unit.active != "active":
        return [f"the controller's unit is {unit.active}"]
    if unit.release != unit.installed:
        running, installed = unit.release or "unknown", unit.installed or "none"
        return [
            f"the controller runs release {running}, but {installed} is installed; restart bess_controller"
        ]
    return []


def _hold_problems(metrics: Metrics, wanted: str) -> list[str]:
    """Say what is wrong with the holds that the controller tells; ``wanted`` is as in `Expected`."""
    safe_mode = sorted(
        {f"{labels['device']} ({labels['reason']})" for labels in metrics.raised("stationkeeper_safe_mode")}
    )
    maintenance = bool(metrics.value("stationkeeper_maintenance"))
    if wanted == "safe_mode":
        return [] if safe_mode else ["the controller is not in safe mode"]
    if wanted == "maintenance":
        return [] if maintenance else ["the controller is not in maintenance"]
    found = [f"safe mode still holds {device}" for device in safe_mode]
    return found + (["maintenance still holds the station"] if maintenance else [])


def _sample(
    metrics: Metrics, device: str, limit_s: float, now: float
) -> tuple[dict[str, float | None], str | None]:
    taken = metrics.value("stationkeeper_last_sample_timestamp_seconds", device=device)
    age = None if taken is None else round(now - taken, 1)
    sample = {
        "age_s": age,
        "power_kw": metrics.value("stationkeeper_device_power_kw", device=device),
        "soe_percent": metrics.value("stationkeeper_device_soe_percent", device=device),
    }
    if age is None or taken == 0:
        return sample, f"{device} has given no sample since the controller started"
    if age > limit_s:
        return sample, f"{device} has given no sample for {age:.0f} s"
    return sample, None


def _notes(
    metrics: Metrics, latched: float | None, buffered: float | None, now: float, age_s: float
) -> list[str]:
    notes = []
    if latched:
        notes.append("the emergency stop is latched: the station holds 0 kW")
    uploaded = metrics.value("stationkeeper_last_upload_timestamp_seconds")
    silent_s = now - uploaded if uploaded else age_s
    if buffered and silent_s > _UPLOAD_LATE_S:
        since = "" if uploaded else ", since the controller started"
        notes.append(
            f"nothing was uploaded for {silent_s:.0f} s{since}; {buffered:.0f} rows wait in the buffer"
        )
    return notes


def look(
    unit_name: str,
    metrics_url: str,
    expected: Expected,
    wait_s: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Status:
    """Look once a second until nothing is wrong or ``wait_s`` is over, and return the last look."""
    exposure = exposure_of(unit_name) if expected.exposure_max is not None else None
    deadline = time.monotonic() + wait_s
    while True:
        status = judge(look_at(unit_name), fetch(metrics_url), expected, now=time.time(), exposure=exposure)
        if not status.problems or time.monotonic() >= deadline:
            return status
        sleep(1)


def fetch(url: str) -> Metrics | None:
    """Fetch the metrics; None when they do not answer."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 (a fixed http address of this host)
            return Metrics(answer.read().decode())
    except (OSError, urllib.error.URLError, ValueError):
        return None


def exposure_of(name: str) -> float | None:
    """Return the exposure, 0 to 10, that systemd finds in a unit."""
    match = _EXPOSURE.search(ask(["systemd-analyze", "security", "--no-pager", name])[1])
    return float(match[1]) if match else None
