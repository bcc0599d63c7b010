"""Every query of every dashboard runs against the lab's Prometheus and database, and returns data."""

from __future__ import annotations

from stationkeeper.dashboards import queries
from system import LabSystem


def test_every_panel_has_data(flux: LabSystem) -> None:
    empty = []
    for query in queries():
        expression = query.expression
        rows = flux.measured(expression) if query.kind == "promql" else flux.query(expression)
        if not rows:
            empty.append(f"{query.dashboard} / {query.panel}: {query.expression}")
    assert empty == []


def test_every_rule_is_loaded_and_no_target_is_down(flux: LabSystem) -> None:
    flux.wait("all targets up", lambda: not down(flux), timeout_s=60)
    rules = flux.prometheus("rules")
    broken = [
        rule["name"]
        for group in rules["groups"]
        for rule in group["rules"]
        if rule["health"] not in {"ok", "unknown"}
    ]
    assert broken == []


def down(flux: LabSystem) -> list[str]:
    return [str(sample["metric"]) for sample in flux.measured("up == 0")]
