"""The health gate of a release: is the controller in charge with it, and does it stay so?

`Gate` judges what was seen, without I/O; `watch` looks once a second. Runs on the station with nothing but
its python3 (standard library only).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .service import Service
from .service import look as look_at
from .status import Metrics, fetch

# One lost answer is daily life on a serial bus. A release that breaks a device loses every one.
_ERRORS_TOLERATED = 2
_COUNTERS = {
    "stationkeeper_modbus_errors_total": "failed exchanges with devices",
    "stationkeeper_samples_lost_total": "samples that never reached the store",
    "stationkeeper_rows_rejected_total": "rows that the database refused",
}
_SAMPLE = "stationkeeper_last_sample_timestamp_seconds"


@dataclass(frozen=True)
class Sight:
    """Unit and metrics of the controller at one moment.

    ``at_s`` is in seconds since 1970 UTC, ``clock_s`` on a clock that never jumps.
    """

    at_s: float
    clock_s: float
    unit: Service
    metrics: Metrics | None

    def taken_s(self, device: str) -> float | None:
        """Return when the device's newest sample was taken, as the controller tells it."""
        return self.metrics.value(_SAMPLE, device=device) if self.metrics else None


@dataclass(frozen=True)
class Wanted:
    """What must be in force: hash of the merged configuration, package release, and devices that must answer.

    ``age_s`` is the greatest age of a fresh sample in seconds.
    """

    config_hash: str | None
    release: str | None
    devices: tuple[str, ...]
    age_s: float


@dataclass(frozen=True)
class Times:
    """``watch_s``: how long the controller must stay in charge. ``settle_s``: how much longer it may take."""

    watch_s: float
    settle_s: float


@dataclass(frozen=True)
class Verdict:
    """``passed`` is None while it is not decided. ``problems`` says why it is not passed."""

    passed: bool | None
    problems: tuple[str, ...] = ()


def required_devices(before: Sight, devices: Sequence[str], age_s: float) -> tuple[str, ...]:
    """Return the devices that a new release must sample: those that the old one did.

    A device that was silent before is no proof against the new release. When the controller told nothing
    before, every device counts.
    """
    if before.metrics is None or before.unit.active != "active":
        return tuple(devices)
    taken = {name: before.taken_s(name) for name in devices}
    return tuple(name for name, moment in taken.items() if moment and before.at_s - moment <= age_s)


class Gate:
    """Judges one release from the moment of the switch; ``base`` is what was seen right after it.

    A fresh sample is one whose time has changed since then, so a clock that is set meanwhile does no harm.
    """

    def __init__(self, wanted: Wanted, times: Times, base: Sight) -> None:
        self._wanted = wanted
        self._times = times
        self._base = base
        self._counted: dict[str, float] | None = None
        self._taken = {name: base.taken_s(name) for name in wanted.devices}
        self._changed_s: dict[str, float] = {}

    def look(self, sight: Sight) -> Verdict:
        """Take in one sight.

        A crash or errors decide at once; the rest may go away until the time is over.
        """
        fatal = self._crashes(sight) or self._errors(sight)
        if fatal:
            return Verdict(False, tuple(fatal))
        waiting = tuple(self._missing(sight))
        elapsed_s = self.elapsed_s(sight)
        if not waiting and elapsed_s >= self._times.watch_s:
            return Verdict(True)
        if waiting and elapsed_s >= self._times.watch_s + self._times.settle_s:
            return Verdict(False, waiting)
        return Verdict(None, waiting)

    def elapsed_s(self, sight: Sight) -> float:
        """Return the time since the switch in seconds."""
        return sight.clock_s - self._base.clock_s

    def _crashes(self, sight: Sight) -> list[str]:
        unit, base = sight.unit, self._base.unit
        # No answer is no crash: systemd is silent for a moment while a host loses its power or is very busy.
        if unit.active == "unknown":
            return []
        alive = unit.active in ("active", "reloading")
        if alive and unit.restarts <= base.restarts and unit.pid == base.pid:
            return []
        since_s = self.elapsed_s(sight)
        return [
            f"the controller ended by itself within {since_s:.0f} s of the switch; its unit is {unit.active}"
        ]

    def _errors(self, sight: Sight) -> list[str]:
        if sight.metrics is None:
            return []
        now = {name: sight.metrics.total(name) for name in _COUNTERS}
        if self._counted is None:
            self._counted = now
        more = {name: now[name] - self._counted[name] for name in _COUNTERS}
        return [
            f"{count:.0f} {_COUNTERS[name]} since the switch"
            for name, count in more.items()
            if count > _ERRORS_TOLERATED
        ]

    def _missing(self, sight: Sight) -> list[str]:
        metrics, wanted = sight.metrics, self._wanted
        if sight.unit.active == "unknown":
            return ["systemd does not answer for the controller's unit"]
        if metrics is None:
            return ["the controller's metrics do not answer"]
        found = []
        if wanted.release is not None and sight.unit.release != wanted.release:
            running = sight.unit.release or "unknown"
            found.append(f"the controller runs release {running}, not {wanted.release}")
        if metrics.value("stationkeeper_config_valid") != 1:
            found.append("the controller refuses the configuration; the last good one is in force")
        if wanted.config_hash and metrics.value("stationkeeper_config_info", hash=wanted.config_hash) != 1:
            found.append(f"configuration {wanted.config_hash} is not in force")
        if metrics.value("stationkeeper_emergency_stop_latched") is None:
            found.append("the controller does not say whether it is latched")
        return found + [problem for name in wanted.devices if (problem := self._silence(sight, name))]

    def _silence(self, sight: Sight, device: str) -> str | None:
        taken = sight.taken_s(device)
        if taken and taken != self._taken[device]:
            self._taken[device] = taken
            self._changed_s[device] = sight.clock_s
        if device not in self._changed_s:
            return f"{device} has given no sample since the switch"
        silent_s = sight.clock_s - self._changed_s[device]
        return f"{device} has given no sample for {silent_s:.0f} s" if silent_s > self._wanted.age_s else None


def see(unit: str, metrics_url: str) -> Sight:
    """Look at the controller now."""
    return Sight(time.time(), time.monotonic(), look_at(unit), fetch(metrics_url))


def watch(
    gate: Gate, look: Callable[[], Sight], sleep: Callable[[float], None] = time.sleep
) -> tuple[Verdict, float]:
    """Look once a second until the gate has decided; returns the verdict and how long it took in seconds."""
    while True:
        sight = look()
        verdict = gate.look(sight)
        if verdict.passed is not None:
            return verdict, round(gate.elapsed_s(sight), 1)
        sleep(1)
