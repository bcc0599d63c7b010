"""The two data sources of every dashboard, and queries to them."""

from __future__ import annotations

from typing import Any, Literal

from grafana_foundation_sdk.builders import prometheus
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.prometheus import Dataquery as PrometheusQuery

# The uids that the grafana role gives its data sources (templates/datasources/stationkeeper.yml.j2).
PROMETHEUS = DataSourceRef(type_val="prometheus", uid="prometheus")
DATABASE = DataSourceRef(type_val="grafana-postgresql-datasource", uid="flux-database")


class SqlQuery(Dataquery):
    """A query to Grafana's PostgreSQL data source, for which the SDK has no type of its own."""

    def __init__(self, sql: str, result: Literal["time_series", "table"], ref_id: str = "A") -> None:
        self.sql = sql
        self.result = result
        self.ref_id = ref_id

    def to_json(self) -> dict[str, Any]:
        """Return the query as it stands in a dashboard's JSON."""
        return {
            "refId": self.ref_id,
            "datasource": DATABASE,
            "editorMode": "code",
            "format": self.result,
            "rawQuery": True,
            "rawSql": self.sql,
        }


class _Built(Builder[Dataquery]):
    def __init__(self, query: Dataquery) -> None:
        self._query = query

    def build(self) -> Dataquery:
        return self._query


def promql(expression: str, legend: str = "", ref_id: str = "A") -> Builder[PrometheusQuery]:
    """Return a range query to Prometheus; ``legend`` may use ``{{label}}``."""
    query = prometheus.Dataquery().expr(expression).ref_id(ref_id).range().datasource(PROMETHEUS)
    return query.legend_format(legend) if legend else query


def promql_now(expression: str, legend: str = "", ref_id: str = "A") -> Builder[PrometheusQuery]:
    """Return a query to Prometheus for the value of this moment."""
    query = prometheus.Dataquery().expr(expression).ref_id(ref_id).instant().datasource(PROMETHEUS)
    return query.legend_format(legend) if legend else query


def sql(
    statement: str, result: Literal["time_series", "table"] = "table", ref_id: str = "A"
) -> Builder[Dataquery]:
    """Return a query to the database; a time series needs a column ``time`` and at most one text column."""
    return _Built(SqlQuery(statement.strip(), result, ref_id))
