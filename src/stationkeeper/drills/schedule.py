"""Whether drills are held in time, from the figures that they leave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

DAY_S = 86_400


def states(lines: Iterable[str], schedule: Iterable[Mapping[str, Any]], now: float) -> list[dict[str, Any]]:
    """Return the state of each scheduled drill.

    ``lines`` are samples in Prometheus' text format, ``schedule`` has ``name`` and ``cadence_days``; ``now``
    is in seconds since the epoch. Each state has ``drill``, ``last_good_days`` (null: never), ``rto_s`` and
    ``rpo_s`` (null without a run), ``good`` (of the last run) and ``problem`` (empty when all is well).
    """
    figures: dict[str, dict[str, float]] = {}
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            figures.setdefault(sample.labels.get("drill", ""), {})[sample.name] = sample.value
    return [_state(entry, figures.get(entry["name"], {}), now) for entry in schedule]


def _state(entry: Mapping[str, Any], figures: Mapping[str, float], now: float) -> dict[str, Any]:
    last = figures.get("stationkeeper_drill_last_success_timestamp_seconds")
    good = figures.get("stationkeeper_drill_last_run_success")
    days = None if last is None else round((now - last) / DAY_S, 1)
    problem = ""
    if days is None:
        problem = f"{entry['name']} was never good"
    elif days > entry["cadence_days"]:
        problem = f"{entry['name']} is overdue, the last good one was {days:.0f} days ago"
    elif good == 0:
        problem = f"the last {entry['name']} was no good one"
    return {
        "drill": entry["name"],
        "last_good_days": days,
        "good": None if good is None else bool(good),
        "rto_s": figures.get("stationkeeper_drill_rto_seconds"),
        "rpo_s": figures.get("stationkeeper_drill_rpo_seconds"),
        "problem": problem,
    }
