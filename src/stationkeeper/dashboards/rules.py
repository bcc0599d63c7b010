"""Grafana's own alert rules: what only the database can tell. Prometheus' rules are in the role prometheus.

They look at the rows from the reader's side, so they also notice what every exporter and controller believes
to be fine. A rule without data or with an error fires: silence is a fault.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stationkeeper.dashboards.coverage import with_newest
from stationkeeper.dashboards.datasources import DATABASE, SqlQuery

_FRESHNESS = with_newest("""
SELECT d.site, d.name AS device,
       -- In planned maintenance a missing row is explained; without a line the rule would fire.
       CASE WHEN EXISTS (SELECT FROM flux.mg_maintenance AS m
                         WHERE m.site = d.site AND m.ended_at IS NULL
                           AND m.started_at <= now() AND m.planned_until > now())
            THEN 0
            ELSE coalesce(extract(epoch FROM now() - n.time), 1e9)::double precision
       END AS age
FROM {newest}
WHERE d.active_from <= now() - interval '5 minutes' AND (d.active_to IS NULL OR d.active_to > now())
""")

_ROLLUP = """
SELECT coalesce(extract(epoch FROM now() - max(bucket)), 1e9)::double precision AS lag
FROM flux.mg_meter_readings_5m_intermediate
"""


@dataclass(frozen=True)
class AlertRule:
    """One rule: it fires for each line of the query whose number is greater than ``limit`` (seconds)."""

    uid: str
    title: str
    query: SqlQuery
    limit: float
    pending: str
    severity: str
    summary: str
    runbook: str


def alert_rules() -> Sequence[AlertRule]:
    """Return the rules."""
    return (
        AlertRule(
            uid="sk-no-recent-rows",
            title="NoRecentRows",
            query=SqlQuery(_FRESHNESS.strip(), "table"),
            limit=300,
            pending="5m",
            severity="critical",
            summary="The database has no recent row of {{ $labels.device }}",
            runbook="telemetry_gap_check",
        ),
        AlertRule(
            uid="sk-rollup-behind",
            title="RollupBehind",
            query=SqlQuery(_ROLLUP.strip(), "table"),
            limit=1800,
            pending="10m",
            severity="warning",
            summary="The five-minute rollup of the meters is behind",
            runbook="check_health",
        ),
    )


def provisioned() -> dict[str, Any]:
    """Return the rules in the form of Grafana's provisioning files.

    ``$`` is doubled where it is text: Grafana expands ``$NAME`` in these files.
    """
    return {
        "apiVersion": 1,
        "groups": [
            {
                "orgId": 1,
                "name": "database",
                "folder": "Stationkeeper",
                "interval": "1m",
                "rules": [_rule(rule) for rule in alert_rules()],
            }
        ],
    }


def _rule(rule: AlertRule) -> dict[str, Any]:
    window = {"from": 600, "to": 0}
    threshold = {
        "refId": "B",
        "type": "threshold",
        "datasource": {"type": "__expr__", "uid": "__expr__"},
        "expression": rule.query.ref_id,
        "conditions": [{"evaluator": {"type": "gt", "params": [rule.limit]}}],
    }
    query = {**rule.query.to_json(), "rawSql": rule.query.sql.replace("$", "$$")}
    return {
        "uid": rule.uid,
        "title": rule.title,
        "condition": "B",
        "data": [
            {
                "refId": rule.query.ref_id,
                "datasourceUid": DATABASE.uid,
                "relativeTimeRange": window,
                "model": query,
            },
            {"refId": "B", "datasourceUid": "__expr__", "relativeTimeRange": window, "model": threshold},
        ],
        "noDataState": "Alerting",
        "execErrState": "Alerting",
        "for": rule.pending,
        "labels": {"severity": rule.severity, "owner": "operations"},
        "annotations": {"summary": rule.summary.replace("$", "$$"), "runbook": rule.runbook},
    }
