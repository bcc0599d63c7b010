"""Which alerts fired in a span of time, from what Prometheus answers. Pure logic."""

from __future__ import annotations

import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

#: Alerts often fire before somebody calls it an incident.
BEFORE = timedelta(minutes=15)
_STEP_S = 15
#: Prometheus refuses more than 11,000 points.
_POINTS = 10_000
_PLACES = ("host", "site", "device", "service", "job")


@dataclass(frozen=True)
class Alert:
    """One alert that fired; ``until`` is None while it does. ``where``: its labels, after a space."""

    name: str
    severity: str
    where: str
    since: datetime
    until: datetime | None


def request(server: str, since: datetime, until: datetime) -> str:
    """Return the address at which Prometheus tells what fired from shortly before ``since``."""
    words = {
        "query": 'ALERTS{alertstate="firing", severity!="none"}',
        "start": f"{(since - BEFORE).timestamp():.0f}",
        "end": f"{until.timestamp():.0f}",
        "step": f"{step_s(since, until)}",
    }
    return f"{server.rstrip('/')}/api/v1/query_range?{urllib.parse.urlencode(words)}"


def step_s(since: datetime, until: datetime) -> int:
    """Return the seconds between two looks."""
    length = (until - since + BEFORE).total_seconds()
    return max(_STEP_S, int(length / _POINTS) + 1)


def alerts(answer: Mapping[str, Any], since: datetime, until: datetime) -> list[Alert]:
    """Return the alerts of an answer to `request`, the earliest first. Raises ValueError for another answer.

    One that pauses is told once for each time that it fires.
    """
    step = step_s(since, until)
    found = []
    try:
        for series in answer["data"]["result"]:
            labels = series["metric"]
            name, severity = labels["alertname"], labels.get("severity", "unknown")
            where = "".join(f" {labels[place]}" for place in _PLACES if labels.get(place))
            for first, last in _spans([float(at) for at, _ in series["values"]], step):
                end = None if last + 2 * step >= until.timestamp() else datetime.fromtimestamp(last, UTC)
                found.append(Alert(name, severity, where, datetime.fromtimestamp(first, UTC), end))
    except (KeyError, TypeError) as error:
        raise ValueError(f"this is no answer of Prometheus: {str(answer)[:200]}") from error
    return sorted(found, key=lambda one: (one.since, one.name, one.where))


def _spans(times: list[float], step: int) -> list[tuple[float, float]]:
    """Return the first and last of each row of times that follow each other by one step."""
    spans: list[tuple[float, float]] = []
    for at in times:
        if spans and at - spans[-1][1] <= 1.5 * step:
            spans[-1] = (spans[-1][0], at)
        else:
            spans.append((at, at))
    return spans
