"""Panels with the house's choices, and their placement on the grid of 24 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from grafana_foundation_sdk.builders import common, dashboard, stat, statushistory, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models.common import DataSourceRef, VisibilityMode
from grafana_foundation_sdk.models.dashboard import (
    GridPos,
    Panel,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)

from stationkeeper.dashboards.datasources import DATABASE, PROMETHEUS, SqlQuery

COLUMNS = 24

Target: TypeAlias = Builder[Any]
AnyPanel: TypeAlias = timeseries.Panel | stat.Panel | table.Panel | statushistory.Panel


def thresholds(*steps: tuple[float | None, str]) -> dashboard.ThresholdsConfig:
    """Return colours by value: ``(None, "green"), (80, "red")`` is green below 80, red from there."""
    return (
        dashboard.ThresholdsConfig()
        .mode(ThresholdsMode.ABSOLUTE)
        .steps([Threshold(value=value, color=colour) for value, colour in steps])
    )


def _source(target: Target) -> DataSourceRef:
    built: Dataquery = target.build()
    return DATABASE if isinstance(built, SqlQuery) else PROMETHEUS


def series(title: str, unit: str, *targets: Target, description: str = "") -> timeseries.Panel:
    """Return a panel of lines over time, half the width; gaps in the data stay gaps."""
    panel = (
        timeseries.Panel()
        .title(title)
        .unit(unit)
        .span(12)
        .height(8)
        .datasource(_source(targets[0]))
        .line_width(1)
        .fill_opacity(5)
        .span_nulls(False)
        .legend(
            common.VizLegendOptions().show_legend(show_legend=True),
        )
    )
    for target in targets:
        panel = panel.with_target(target)
    return panel.description(description) if description else panel


def number(
    title: str, unit: str, target: Target, *steps: tuple[float | None, str], description: str = ""
) -> stat.Panel:
    """Return a panel with one number, coloured by ``steps``; a missing value says so."""
    panel = (
        stat.Panel()
        .title(title)
        .unit(unit)
        .span(4)
        .height(4)
        .datasource(_source(target))
        .thresholds(thresholds(*(steps or ((None, "blue"),))))
        .no_value("no data")
        .with_target(target)
    )
    return panel.description(description) if description else panel


def rows(title: str, unit: str, target: Target, description: str = "") -> table.Panel:
    """Return a table over the whole width."""
    panel = (
        table.Panel()
        .title(title)
        .unit(unit)
        .span(COLUMNS)
        .height(9)
        .datasource(_source(target))
        .no_value("-")
        .with_target(target)
    )
    return panel.description(description) if description else panel


def states(
    title: str, target: Target, meaning: Mapping[str, tuple[str, str]], description: str = ""
) -> statushistory.Panel:
    """Return strips over time, one for each series; ``meaning`` has a name and a colour for each value."""
    results = {
        value: ValueMappingResult(text=text, color=colour, index=index)
        for index, (value, (text, colour)) in enumerate(meaning.items())
    }
    return (
        statushistory.Panel()
        .title(title)
        .description(description)
        .unit("short")
        .span(COLUMNS)
        .height(16)
        .datasource(_source(target))
        .show_value(VisibilityMode.NEVER)
        .row_height(0.8)
        .col_width(1)
        .per_page(50)
        .mappings([ValueMap(options=results)])
        .legend(common.VizLegendOptions().show_legend(show_legend=True))
        .no_value("no data")
        .with_target(target)
    )


def place(panels: Sequence[AnyPanel]) -> list[AnyPanel]:
    """Number the panels from 1 and lay them out in reading order, from left to right and downwards."""
    x = y = tallest = 0
    for number_, panel in enumerate(panels, start=1):
        built: Panel = panel.build()
        width = built.grid_pos.w if built.grid_pos else COLUMNS
        height = built.grid_pos.h if built.grid_pos else 8
        if x + width > COLUMNS:
            x, y, tallest = 0, y + tallest, 0
        panel.id(number_).grid_pos(GridPos(x=x, y=y, w=width, h=height))
        x, tallest = x + width, max(tallest, height)
    return list(panels)
