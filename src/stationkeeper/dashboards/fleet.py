"""Dashboard `fleet`: every station at a glance, from Prometheus."""

from __future__ import annotations

from collections.abc import Sequence

from stationkeeper.dashboards.datasources import promql, promql_now
from stationkeeper.dashboards.panels import AnyPanel, number, place, series

UID = "stationkeeper-fleet"
TITLE = "Fleet"
SINCE = "now-1h"

_RED_FROM_1 = ((None, "green"), (1.0, "red"))
_RED_BELOW_1 = ((None, "red"), (1.0, "green"))


def panels() -> Sequence[AnyPanel]:
    """Return the panels, placed."""
    return place([*_numbers(), *_telemetry(), *_hosts()])


def _numbers() -> list[AnyPanel]:
    return [
        number(
            "Stations that answer",
            "percentunit",
            promql_now('avg(up{job="controller"})'),
            *_RED_BELOW_1,
        ),
        number(
            "Devices without a recent sample",
            "short",
            promql_now(
                "count(stationkeeper_expected_device unless on (site, device) "
                "(time() - stationkeeper_last_sample_timestamp_seconds <= 300)) or vector(0)"
            ),
            *_RED_FROM_1,
            description="Of the devices that the inventory has; no sample for five minutes.",
        ),
        number(
            "Stops latched",
            "short",
            promql_now("sum(max by (site) (stationkeeper_emergency_stop_latched))"),
            *_RED_FROM_1,
        ),
        number(
            "Alerts",
            "short",
            promql_now('count(ALERTS{alertstate="firing", severity!="none"}) or vector(0)'),
            *_RED_FROM_1,
        ),
        number("Database", "bool_on_off", promql_now("min(pg_up)"), *_RED_BELOW_1),
        number("Redis", "bool_on_off", promql_now("min(redis_up)"), *_RED_BELOW_1),
    ]


def _telemetry() -> list[AnyPanel]:
    return [
        series(
            "Battery power by site",
            "kwatt",
            promql('sum by (site) (stationkeeper_device_power_kw{type="bess", site=~"$site"})', "{{site}}"),
            description="Positive: discharging into the grid. Negative: charging.",
        ),
        series(
            "State of energy",
            "percent",
            promql('stationkeeper_device_soe_percent{site=~"$site"}', "{{device}}"),
        ),
        series(
            "Age of the newest sample",
            "s",
            promql(
                'time() - max by (device) (stationkeeper_last_sample_timestamp_seconds{site=~"$site"})',
                "{{device}}",
            ),
        ),
        series(
            "Age of the newest upload",
            "s",
            promql(
                'time() - max by (site) (stationkeeper_last_upload_timestamp_seconds{site=~"$site"})',
                "{{site}}",
            ),
        ),
        series(
            "Rows waiting on the stations",
            "short",
            promql('stationkeeper_buffer_rows{site=~"$site"}', "{{site}}"),
        ),
        series(
            "Rows uploaded",
            "cps",
            promql(
                'sum by (site) (rate(stationkeeper_rows_uploaded_total{site=~"$site"}[$__rate_interval]))',
                "{{site}}",
            ),
            promql(
                'sum by (site) (rate(stationkeeper_rows_rejected_total{site=~"$site"}[$__rate_interval]))',
                "{{site}} rejected",
                ref_id="B",
            ),
        ),
    ]


def _hosts() -> list[AnyPanel]:
    filesystems = 'fstype!~"tmpfs|ramfs"'
    return [
        series(
            "Disk in use",
            "percent",
            promql(
                "100 - 100 * min by (host) ("
                f"node_filesystem_avail_bytes{{{filesystems}}} "
                f"/ node_filesystem_size_bytes{{{filesystems}}})",
                "{{host}}",
            ),
        ),
        series(
            "Processor in use",
            "percent",
            promql(
                '100 - 100 * avg by (host) (rate(node_cpu_seconds_total{mode="idle"}[$__rate_interval]))',
                "{{host}}",
            ),
        ),
        series(
            "Clock against Prometheus",
            "s",
            promql("node_time_seconds - timestamp(node_time_seconds)", "{{host}}"),
        ),
        series(
            "Memory available",
            "bytes",
            promql("node_memory_MemAvailable_bytes", "{{host}}"),
        ),
    ]
