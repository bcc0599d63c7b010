"""Dashboard `coverage`: what the database really holds, device by device, measured against the registry."""

from __future__ import annotations

from collections.abc import Sequence

from stationkeeper.dashboards.datasources import promql, promql_now, sql
from stationkeeper.dashboards.panels import AnyPanel, number, place, rows, series

UID = "stationkeeper-coverage"
TITLE = "Telemetry coverage"
SINCE = "now-1h"

# A device's newest row, found through the index; a device without rows keeps its line, with NULL.
_NEWEST = """
flux.mg_device_registry d
LEFT JOIN LATERAL (
  SELECT max(newest.time) AS time FROM (
    (SELECT time FROM flux.mg_bess_readings WHERE device_id = d.id ORDER BY time DESC LIMIT 1)
    UNION ALL
    (SELECT time FROM flux.mg_meter_readings WHERE device_id = d.id ORDER BY time DESC LIMIT 1)
  ) AS newest
) AS n ON true
"""


def with_newest(statement: str) -> str:
    """Return the statement with ``{newest}`` replaced: each device ``d`` and its newest row's time, ``n``."""
    return statement.replace("{newest}", _NEWEST.strip())


_FRESHNESS = with_newest("""
SELECT d.site, d.name AS device, d.type, d.cadence::text AS cadence, n.time AS "newest row",
       extract(epoch FROM now() - n.time)::double precision AS age
FROM {newest}
WHERE d.active_from <= now() AND (d.active_to IS NULL OR d.active_to > now())
  AND d.site IN (${site:sqlstring})
ORDER BY n.time ASC NULLS FIRST
""")

_SILENT = with_newest("""
SELECT count(*) AS silent
FROM {newest}
WHERE d.active_from <= now() AND (d.active_to IS NULL OR d.active_to > now())
  AND d.site IN (${site:sqlstring})
  AND (n.time IS NULL OR n.time < now() - greatest(interval '5 minutes', 3 * d.cadence))
""")

# Rows of each five minutes against what the device's cadence promises. Buckets without rows count as 0, not
# as nothing: that is the point of the chart. Only whole buckets within the chosen time are counted.
_COVERAGE = """
WITH span AS (
  SELECT date_bin('5 minutes', $__timeFrom()::timestamptz, timestamptz '2000-01-01 00:00:00+00')
           + interval '5 minutes' AS first,
         $__timeTo()::timestamptz - interval '5 minutes' AS last
), bucket AS (
  SELECT generate_series(first, last, interval '5 minutes') AS start FROM span
), reading AS (
  SELECT device_id, time FROM flux.mg_bess_readings WHERE $__timeFilter(time)
  UNION ALL
  SELECT device_id, time FROM flux.mg_meter_readings WHERE $__timeFilter(time)
), counted AS (
  SELECT date_bin('5 minutes', time, timestamptz '2000-01-01 00:00:00+00') AS start, device_id,
         count(*) AS held
  FROM reading GROUP BY 1, 2
)
SELECT b.start AS "time", d.name AS metric,
       100.0 * coalesce(c.held, 0) / greatest(1, 300 / extract(epoch FROM d.cadence)) AS value
FROM flux.mg_device_registry d
JOIN bucket b ON b.start >= d.active_from AND (d.active_to IS NULL OR b.start < d.active_to)
LEFT JOIN counted c ON c.start = b.start AND c.device_id = d.id
WHERE d.site IN (${site:sqlstring})
ORDER BY 1
"""

_ROLLUP_LAG = """
SELECT extract(epoch FROM now() - max(bucket))::double precision AS lag
FROM flux.mg_meter_readings_5m_intermediate
"""

_RESTARTS = """
SELECT d.site, d.name AS device, r.boot_id, min(r.time) AS "first row", max(r.time) AS "last row",
       count(*) AS "rows held", max(r.seq) - min(r.seq) + 1 - count(*) AS "missing in between"
FROM flux.mg_bess_readings r
JOIN flux.mg_device_registry d ON d.id = r.device_id
WHERE $__timeFilter(r.time) AND d.site IN (${site:sqlstring})
GROUP BY 1, 2, 3
ORDER BY 4 DESC
LIMIT 50
"""


def panels() -> Sequence[AnyPanel]:
    """Return the panels, placed."""
    return place(
        [
            number(
                "Devices without a recent row",
                "short",
                sql(_SILENT),
                (None, "green"),
                (1.0, "red"),
                description="Active in the registry, and no row for five minutes or three cadences.",
            ),
            number(
                "Rollup behind by",
                "s",
                sql(_ROLLUP_LAG),
                (None, "green"),
                (1800.0, "orange"),
                description="Age of the newest five-minute rollup of the meters.",
            ),
            number("Database", "bool_on_off", promql_now("min(pg_up)"), (None, "red"), (1.0, "green")),
            number("Size", "bytes", promql_now('max(pg_database_size_bytes{datname="flux"})')),
            number("Connections", "short", promql_now('sum(pg_stat_activity_count{datname="flux"})')),
            number(
                "Rows waiting on the stations",
                "short",
                promql_now('sum(stationkeeper_buffer_rows{site=~"$site"})'),
            ),
            rows("Newest row of each device", "s", sql(_FRESHNESS)),
            series("Rows stored, of those promised", "percent", sql(_COVERAGE, "time_series")),
            series(
                "Rows written",
                "cps",
                promql('rate(pg_stat_database_tup_inserted{datname="flux"}[$__rate_interval])', "inserted"),
            ),
            rows(
                "Runs of each controller",
                "short",
                sql(_RESTARTS),
                description="A new boot_id is a new start of the controller; seq counts its samples from 1.",
            ),
        ]
    )
