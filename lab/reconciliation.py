"""Compare every row that a lab's database holds with what the simulated devices say they served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from stationkeeper.telemetry.reconcile import DeviceResult, fetch_rows, find_devices, load_profiles, reconcile
from stationkeeper.telemetry.served import read_log
from stationkeeper.telemetry.source import reading
from system import LabSystem

SERVED_LOG = "/var/log/device_simulator/served.jsonl"
# A sample needs its poll, the upload's interval and a spare second before it must be a row.
SETTLE = timedelta(seconds=15)
MARGIN = timedelta(minutes=1)


@dataclass(frozen=True)
class Reconciliation:
    """What was found for each device."""

    results: Sequence[DeviceResult]

    @property
    def complete(self) -> bool:
        return bool(self.results) and all(result.ok and result.served for result in self.results)

    def lines(self) -> list[str]:
        columns = ("served", "stored", "equal", "missing", "invented", "differing", "in_flight")
        table = [f"{'device':<14}" + "".join(f"{column:>10}" for column in columns)]
        for result in self.results:
            counts = result.as_dict()
            table.append(f"{result.name:<14}" + "".join(f"{counts[column]:>10}" for column in columns))
        for result in self.results:
            counts = result.as_dict()
            for kind in ("missing", "invented", "differing"):
                table += [f"{result.name} {kind}: {case}" for case in counts[f"{kind}_evidence"][:3]]
        return table


def reconcile_system(
    system: LabSystem, start: datetime, kills: Mapping[str, Sequence[datetime]]
) -> Reconciliation:
    """Judge [start, now - settle) at every station; ``kills`` are the moments of each kill."""
    end = datetime.now(UTC) - SETTLE
    results: list[DeviceResult] = []
    for station in system.stations:
        log = system.state / f"served-{station}.jsonl"
        log.write_text(system.on_host(station, "cat", SERVED_LOG).stdout)
        units = {1: f"{station.upper()}-BESS-01", 2: f"{station.upper()}-METER-01"}
        with reading(system.database_settings()) as connection:
            devices = find_devices(connection, list(units.values()))
            profiles = load_profiles(devices)
            rows = fetch_rows(connection, devices, profiles, start - MARGIN, end + MARGIN)
        # The controller asks from its own station; the control node's reads during a stop are no samples.
        served = read_log([log], units, profiles, clients=[system.addresses[station], "127.0.0.1"])
        moments = kills.get(station, ())
        results += reconcile(served.samples, rows, list(devices), start, end, kills=moments)
    return Reconciliation(results)
