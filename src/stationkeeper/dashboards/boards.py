"""The dashboards: their variables, their range of time, and their JSON."""

from __future__ import annotations

import json
from types import ModuleType

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    VariableRefresh,
    VariableSort,
)

from stationkeeper.dashboards import changes, coverage, fleet, gaps, station
from stationkeeper.dashboards.datasources import PROMETHEUS

BOARDS: tuple[ModuleType, ...] = (fleet, station, coverage, gaps)

# The same variable on every dashboard, so that a link from one to another keeps the chosen sites.
_SITES = "label_values(stationkeeper_expected_device, site)"


def build(board: ModuleType) -> Dashboard:
    """Return one dashboard, which lives in a module with ``UID``, ``TITLE``, ``SINCE`` and ``panels()``."""
    chosen = (
        dashboard.QueryVariable("site")
        .label("Site")
        .query({"query": _SITES, "refId": "site"})
        .datasource(PROMETHEUS)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
    )
    link = (
        dashboard.DashboardLink("Stationkeeper")
        .type(DashboardLinkType.DASHBOARDS)
        .tags(["stationkeeper"])
        .as_dropdown(as_dropdown=True)
        .include_vars(include_vars=True)
        .keep_time(keep_time=True)
    )
    built = (
        dashboard.Dashboard(board.TITLE)
        .uid(board.UID)
        .tags(["stationkeeper"])
        .timezone("utc")
        .refresh("30s")
        .time(board.SINCE, "now")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(chosen)
        .annotation(changes.annotation())
        .link(link)
    )
    for panel in board.panels():
        built = built.with_panel(panel)
    return built.build()


def to_json(built: object) -> str:
    """Return one dashboard or rule file as stable JSON text with a final newline."""
    return json.dumps(built, cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
