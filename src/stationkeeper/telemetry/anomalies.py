"""Values that are unlike those of the day before: which they are, how unlike, and what they are called.

What is expected of a metric of a device comes from its own values of 24 hours. Mean and standard deviation,
which the guides look at, are moved by the very values that are looked for; and a battery has several usual
values (charging, resting, discharging), of which the median is one at most: with the median's own deviation a
battery that rests for more than half of the day would raise an alarm each time it charges. So:

- What a metric was for at least seven minutes of the day, it may be: the bounds are the quantiles 0.5 % and
  99.5 %, beyond which there is room of `ROOM` deviations.
- The deviation is the distance from the quantile 5 % to 95 %, in standard deviations of a normal distribution
  (3.29); never less than what the metric's instrument is worth (`Metric.least`).
- A battery's power is held against what it was told to do; its state of energy, and counters of energy, are
  looked at by their speed: they may be anywhere, but not jump.

Pure logic; `anomalies_detection` asks the database, `anomalies_records` keeps the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from stationkeeper.telemetry.source import rfc3339

#: From the mildest to the worst.
SEVERITIES = ("info", "warning", "critical")
#: How an anomaly may be resolved.
RESOLUTIONS = ("false_positive", "maintenance", "fixed", "accepted")

QUANTILES = (0.005, 0.05, 0.5, 0.95, 0.995)
#: From the quantile 5 % to 95 % of a normal distribution, in standard deviations.
_SPREAD = 3.29
#: Deviations beyond the usual bounds that are no anomaly yet: about one normal value in 10^8.
ROOM = 3.0
#: Deviations beyond the usual bounds from which an anomaly is critical.
CRITICAL = 10.0
#: Fewer values beyond the bounds than this are a spike: worth a note, no more.
FEW = 3
#: With fewer values than this, or from a shorter time (in hours), nothing is usual yet.
LEAST_VALUES = 60
LEAST_HOURS = 6.0


@dataclass(frozen=True)
class Metric:
    """A column of readings, and how it is looked at.

    ``form``: ``level`` is the value itself, ``deviation`` its distance from ``reference``, another column,
    ``speed`` its change from row to row in units per hour. ``least`` is the smallest deviation that means
    anything, in the unit of the form.
    """

    name: str
    form: str
    least: float
    reference: str = ""


#: What is looked at, by type of device.
METRICS: Mapping[str, Sequence[Metric]] = {
    "bess": (
        Metric("power_kw", "deviation", 0.5, "setpoint_kw"),
        Metric("soe_percent", "speed", 10.0),
        Metric("voltage_v", "level", 1.0),
        Metric("frequency_hz", "level", 0.02),
        Metric("temperature_c", "level", 1.0),
    ),
    "meter": (
        Metric("power_kw", "level", 1.0),
        Metric("voltage_v", "level", 1.0),
        Metric("frequency_hz", "level", 0.02),
        Metric("energy_import_kwh", "speed", 1.0),
        Metric("energy_export_kwh", "speed", 1.0),
    ),
}


@dataclass(frozen=True)
class Usual:
    """What a metric was in the hours before, by `QUANTILES`; None where there is too little to tell."""

    values: int
    hours: float
    quantiles: Sequence[float]

    def bounds(self, metric: Metric) -> Bounds | None:
        """Return what may be expected, or None when too little is known."""
        if self.values < LEAST_VALUES or self.hours < LEAST_HOURS:
            return None
        low, low_5, median, high_5, high = self.quantiles
        deviation = max((high_5 - low_5) / _SPREAD, metric.least)
        return Bounds(low - ROOM * deviation, high + ROOM * deviation, deviation, median)


@dataclass(frozen=True)
class Bounds:
    """What may be expected of a metric: from ``low`` to ``high``, both usual; all in the unit of its form."""

    low: float
    high: float
    deviation: float
    median: float

    def beyond(self, value: float) -> float:
        """Return how many deviations a value is beyond what is usual."""
        return max(self.low - value, value - self.high) / self.deviation + ROOM


def severity(beyond: float, values: int) -> str:
    """Return how bad ``values`` values are, of which the furthest is ``beyond`` deviations from the usual."""
    if values < FEW:
        return "info"
    return "critical" if beyond >= CRITICAL else "warning"


@dataclass(frozen=True)
class Found:
    """Something that is unlike what was expected, before it is in the table.

    The span includes ``start`` and ``end``, the first and the last row. ``value`` is the one furthest from
    what was expected; ``beyond`` in the evidence says how far, in deviations.
    """

    device_id: str
    metric: str
    kind: str
    severity: str
    start: datetime
    end: datetime
    evidence: Mapping[str, Any]
    value: float | None = None
    low: float | None = None
    high: float | None = None

    def joined(self, known: Found) -> Found:
        """Return what is known together with this, found later: one span, the worse severity and value."""
        # The same value again is no news; other rows in quarantine are.
        either = (known, self) if self.value is not None else (self, known)
        worse = max(either, key=lambda one: (one.evidence.get("beyond", 0.0), one.end))
        return replace(
            worse,
            severity=max(known.severity, self.severity, key=SEVERITIES.index),
            start=min(known.start, self.start),
            end=max(known.end, self.end),
        )


@dataclass(frozen=True)
class Anomaly:
    """A row of the table, with its device. Times are aware; ``resolved`` has who, when, as what and why."""

    id: int
    device_id: str
    device: str
    site: str
    type: str
    metric: str
    kind: str
    severity: str
    start: datetime
    end: datetime
    value: float | None
    low: float | None
    high: float | None
    evidence: Mapping[str, Any]
    detected_at: datetime
    resolved: Mapping[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data with times as RFC 3339 text in UTC."""
        return {
            "id": self.id,
            "device": self.device,
            "site": self.site,
            "metric": self.metric,
            "kind": self.kind,
            "severity": self.severity,
            "from": rfc3339(self.start),
            "to": rfc3339(self.end),
            "value": self.value,
            "expected_low": self.low,
            "expected_high": self.high,
            "evidence": dict(self.evidence),
            "detected_at": rfc3339(self.detected_at),
            "resolved": dict(self.resolved) if self.resolved else None,
            "message": self.message,
        }

    @property
    def message(self) -> str:
        """A sentence for an operator."""
        if self.value is None or self.low is None or self.high is None:
            return f"{self.device}: {self.evidence.get('reason', self.kind)}"
        form, values = str(self.evidence.get("form")), self.evidence.get("values")
        of = {"deviation": f" beside {self.evidence.get('reference')}", "speed": " per hour"}.get(form, "")
        return (
            f"{self.device}: {self.metric} {self.value:g}{of}, expected {self.low:g} to {self.high:g}, "
            f"{values} value{'' if values == 1 else 's'}"
        )


def describe(anomalies: Sequence[Anomaly]) -> str:
    """Return a table for a terminal, times in UTC, and how many there are of each severity."""
    lines = [f"{'id':>6}  {'severity':<8}  {'since':<16}  {'site':<8}  what"]
    for one in anomalies:
        line = f"{one.id:>6}  {one.severity:<8}  {one.start:%Y-%m-%d %H:%M}  {one.site:<8}  {one.message}"
        lines.append(line + (f" (resolved: {one.resolved['as']})" if one.resolved else ""))
    total = counts(anomalies)
    lines.append(", ".join(f"{total[severity]} {severity}" for severity in reversed(SEVERITIES)))
    return "\n".join(lines)


def counts(anomalies: Sequence[Anomaly]) -> dict[str, int]:
    """Return how many there are of each severity."""
    return {severity: sum(one.severity == severity for one in anomalies) for severity in SEVERITIES}
