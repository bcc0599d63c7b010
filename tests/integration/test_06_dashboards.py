"""Every query of every dashboard runs against the lab's Prometheus and database, and returns data."""

from __future__ import annotations

import json
import urllib.parse
import urllib.request

from stationkeeper.dashboards import queries
from system import LabSystem


def prometheus(flux: LabSystem, path: str, **parameters: str) -> dict[str, object]:
    address = f"http://{flux.addresses['fluxhub']}:9090/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(address, timeout=10) as answer:
        body: dict[str, object] = json.load(answer)
    return body


def test_every_panel_has_data(flux: LabSystem) -> None:
    empty = []
    for query in queries():
        if query.kind == "promql":
            body = prometheus(flux, "query", query=query.expression)
            data = body["data"]
            assert isinstance(data, dict)
            rows = data["result"]
        else:
            rows = flux.query(query.expression)
        if not rows:
            empty.append(f"{query.dashboard} / {query.panel}: {query.expression}")
    assert empty == []


def test_every_rule_is_loaded_and_no_target_is_down(flux: LabSystem) -> None:
    flux.wait("all targets up", lambda: not down(flux), timeout_s=60)
    rules = prometheus(flux, "rules")["data"]
    assert isinstance(rules, dict)
    broken = [
        rule["name"]
        for group in rules["groups"]
        for rule in group["rules"]
        if rule["health"] not in {"ok", "unknown"}
    ]
    assert broken == []


def down(flux: LabSystem) -> list[str]:
    data = prometheus(flux, "query", query="up == 0")["data"]
    assert isinstance(data, dict)
    return [str(sample["metric"]) for sample in data["result"]]
