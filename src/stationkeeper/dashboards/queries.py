"""Every query of every dashboard and alert rule, with its variables substituted, ready to be run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.models.dashboard import Panel
from grafana_foundation_sdk.models.prometheus import Dataquery as PrometheusQuery

from stationkeeper.dashboards import changes, rules
from stationkeeper.dashboards.boards import BOARDS
from stationkeeper.dashboards.datasources import SqlQuery

DEFAULT_SITES = ("WLCE", "HMCE", "LFCE")
_HOUR_AGO, _NOW = "(now() - interval '1 hour')", "now()"


@dataclass(frozen=True)
class Query:
    """One query: ``expression`` is PromQL or SQL, for the data source with the uid ``datasource``.

    ``kind`` is ``promql`` (send it to ``/api/v1/query``) or ``sql`` (run it as the reading role).
    """

    dashboard: str
    panel: str
    ref_id: str
    kind: Literal["promql", "sql"]
    datasource: str
    expression: str


def queries(sites: Sequence[str] = DEFAULT_SITES) -> Iterator[Query]:
    """Yield the queries of all panels, annotations and alert rules, as Grafana sends them.

    They are for ``sites`` and one hour.
    """
    for board in BOARDS:
        for placed in board.panels():
            panel: Panel = placed.build()
            for target in panel.targets or []:
                yield _query(board.UID, panel.title or "", target, sites)
    yield _query("all", changes.TITLE, changes.QUERY.build(), sites)
    for rule in rules.alert_rules():
        yield _query("alert rules", rule.title, rule.query, sites)


def _query(dashboard: str, panel: str, target: object, sites: Sequence[str]) -> Query:
    if isinstance(target, SqlQuery):
        expression = substitute_sql(target.sql, sites)
        return Query(dashboard, panel, target.ref_id, "sql", "flux-database", expression)
    if isinstance(target, PrometheusQuery):
        expression = substitute_promql(target.expr, sites)
        return Query(dashboard, panel, target.ref_id or "A", "promql", "prometheus", expression)
    message = f"{dashboard}, {panel}: a query of an unknown kind, {type(target).__name__}"
    raise TypeError(message)


def substitute_promql(expression: str, sites: Sequence[str]) -> str:
    """Replace Grafana's variables in PromQL.

    Raises:
        ValueError: the expression has a variable that this function does not know.
    """
    done = expression.replace("$__rate_interval", "1m").replace("$site", "|".join(sites))
    return _without_variables(done)


def substitute_sql(statement: str, sites: Sequence[str]) -> str:
    """Replace Grafana's variables and macros in SQL, with the last hour as the chosen time.

    Raises:
        ValueError: the statement has a variable or macro that this function does not know.
    """
    quoted = ", ".join("'" + site.replace("'", "''") + "'" for site in sites)
    done = re.sub(r"\$__timeFilter\(([^)]*)\)", rf"\1 BETWEEN {_HOUR_AGO} AND {_NOW}", statement)
    done = done.replace("$__timeFrom()", _HOUR_AGO).replace("$__timeTo()", _NOW)
    done = done.replace("$__interval", "1m").replace("${site:sqlstring}", quoted)
    return _without_variables(done)


def _without_variables(text: str) -> str:
    left = re.search(r"\$[\w{]+", text)
    if left:
        message = f"unknown variable or macro {left.group()} in: {text}"
        raise ValueError(message)
    return text
