"""The age of the newest row of every device in service."""

from __future__ import annotations

from stationkeeper.jobs.interface import JobResult, JobSettings, Sample
from stationkeeper.telemetry.freshness import STATES, ask
from stationkeeper.telemetry.source import reading


def work(settings: JobSettings) -> JobResult:
    """Ask how old the rows are. Records are the devices. Raises TelemetryError.

    A device that never sent a row has no age; it is counted under the state ``never``.
    """
    with reading(settings.database) as connection:
        devices = ask(connection, schema=settings.schema)
    counts = {state: sum(one.state == state for one in devices) for state in STATES}
    metrics = [
        Sample(
            "stationkeeper_newest_row_age_seconds",
            "Age of the newest row in the database when the job ran",
            max(one.age_s, 0),
            {"device": one.device.name, "site": one.device.site},
        )
        for one in devices
        if one.age_s is not None
    ]
    metrics += [
        Sample("stationkeeper_devices", "Devices in service by freshness", number, {"state": state})
        for state, number in counts.items()
    ]
    late = [one.message for one in devices if one.state != "ok"]
    return JobResult(len(devices), {"counts": counts, "not_fresh": late[:50]}, metrics)
