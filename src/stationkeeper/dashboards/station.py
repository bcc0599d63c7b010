"""Dashboard `station`: one station in detail, from Prometheus and from its rows in the database."""

from __future__ import annotations

from collections.abc import Sequence

from stationkeeper.dashboards.datasources import promql, promql_now, sql
from stationkeeper.dashboards.panels import AnyPanel, number, place, series

UID = "stationkeeper-station"
TITLE = "Station"
SINCE = "now-1h"

# Rows of the chosen sites' devices in the chosen time, averaged: a line has a bearable number of points.
_READINGS = """
SELECT date_bin('$__interval'::interval, r.time, timestamptz '2000-01-01 00:00:00+00') AS "time",
       d.name AS metric, avg(r.{column}) AS value
FROM flux.{table} r
JOIN flux.mg_device_registry d ON d.id = r.device_id
WHERE $__timeFilter(r.time) AND d.site IN (${{site:sqlstring}})
GROUP BY 1, 2
ORDER BY 1
"""


def _readings(table: str, column: str) -> str:
    return _READINGS.format(table=table, column=column)


def panels() -> Sequence[AnyPanel]:
    """Return the panels, placed."""
    return place([*_numbers(), *_control(), *_machinery(), *_stored()])


def _numbers() -> list[AnyPanel]:
    good, bad = ((None, "red"), (1.0, "green")), ((None, "green"), (1.0, "red"))
    return [
        number(
            "Controller",
            "bool_on_off",
            promql_now('min(up{job="controller", site=~"$site"})'),
            *good,
        ),
        number(
            "Configuration valid",
            "bool_yes_no",
            promql_now('min(stationkeeper_config_valid{site=~"$site"})'),
            *good,
        ),
        number(
            "Emergency stop latched",
            "bool_yes_no",
            promql_now('max(stationkeeper_emergency_stop_latched{site=~"$site"})'),
            *bad,
        ),
        number(
            "Energy",
            "percent",
            promql_now('min(stationkeeper_device_soe_percent{site=~"$site"})'),
            (None, "red"),
            (10.0, "orange"),
            (20.0, "green"),
        ),
        number("Poll interval", "s", promql_now('max(stationkeeper_poll_interval_seconds{site=~"$site"})')),
        number("Rows waiting", "short", promql_now('sum(stationkeeper_buffer_rows{site=~"$site"})')),
    ]


def _control() -> list[AnyPanel]:
    return [
        series(
            "Power and set-point",
            "kwatt",
            promql('stationkeeper_device_power_kw{site=~"$site"}', "{{device}} power"),
            promql('stationkeeper_device_setpoint_kw{site=~"$site"}', "{{device}} set-point", ref_id="B"),
            description="Positive: discharging into the grid. Negative: charging.",
        ),
        series(
            "Components in force",
            "short",
            promql('stationkeeper_control_component{site=~"$site"}', "{{component}}"),
            description="Which of the controller's components take part in the set-point.",
        ),
    ]


def _machinery() -> list[AnyPanel]:
    return [
        series(
            "Duration of a control cycle",
            "s",
            *(
                promql(
                    f"histogram_quantile({quantile}, sum by (le) "
                    '(rate(stationkeeper_cycle_duration_seconds_bucket{site=~"$site"}[$__rate_interval])))',
                    legend,
                    ref_id=ref_id,
                )
                for quantile, legend, ref_id in ((0.5, "median", "A"), (0.99, "99 %", "B"))
            ),
        ),
        series(
            "Modbus errors",
            "cps",
            promql(
                "sum by (device, outcome) "
                '(rate(stationkeeper_modbus_errors_total{site=~"$site"}[$__rate_interval]))',
                "{{device}} {{outcome}}",
            ),
        ),
        series("Buffer on disk", "bytes", promql('stationkeeper_buffer_bytes{site=~"$site"}', "{{site}}")),
        series(
            "Age of the newest sample and upload",
            "s",
            promql('time() - stationkeeper_last_sample_timestamp_seconds{site=~"$site"}', "{{device}}"),
            promql(
                'time() - stationkeeper_last_upload_timestamp_seconds{site=~"$site"}', "upload", ref_id="B"
            ),
        ),
    ]


def _stored() -> list[AnyPanel]:
    batteries, meters = "mg_bess_readings", "mg_meter_readings"
    return [
        series("Battery power, stored", "kwatt", sql(_readings(batteries, "power_kw"), "time_series")),
        series("Meter power, stored", "kwatt", sql(_readings(meters, "power_kw"), "time_series")),
        series("Battery temperature", "celsius", sql(_readings(batteries, "temperature_c"), "time_series")),
        series("Battery voltage", "volt", sql(_readings(batteries, "voltage_v"), "time_series")),
        series("Grid frequency", "hertz", sql(_readings(meters, "frequency_hz"), "time_series")),
        series(
            "Energy exported",
            "kwatth",
            sql(_readings(meters, "energy_export_kwh"), "time_series"),
        ),
    ]
