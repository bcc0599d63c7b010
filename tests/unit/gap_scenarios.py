"""Random devices around a weekend with a clock change, and an oracle that knows nothing of SQL."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_UP, Decimal
from uuid import UUID

from psycopg2.extensions import connection as Connection  # noqa: N812 (psycopg2 names the class so)
from psycopg2.extras import execute_values

from stationkeeper.telemetry.report import Report

#: A Sunday on which clocks in Rome go back: the local day has 25 hours.
BASE = datetime(2025, 10, 26, 0, 0, tzinfo=UTC)
WINDOWS_S = (600, 3600, 4 * 3600, 30 * 3600)


@dataclass(frozen=True)
class Scenario:
    """A device, when it was in service, and the moments of its rows."""

    name: str
    kind: str
    cadence: timedelta
    active_from: datetime
    active_to: datetime | None
    times: tuple[datetime, ...]


def scenarios(count: int, seed: int) -> list[Scenario]:
    """Return devices with jitter, holes and doubles; silent ones, and ones added or removed on the way."""
    chance = random.Random(seed)
    return [_scenario(chance, f"device-{number:04}") for number in range(count)]


def _scenario(chance: random.Random, name: str) -> Scenario:
    kind = chance.choice(["bess", "meter"])
    cadence = timedelta(seconds=chance.choice([1, 7, 60, 300, 900, 3600, 5400]))
    active_from = BASE + cadence * chance.choice([-1000, -5, 0, 3, 20, 40])
    active_to = chance.choice([None, None, active_from + cadence * chance.randint(1, 120)])
    times = set()
    if chance.random() > 0.12:
        moment = BASE - cadence * chance.randint(0, 40)
        for _ in range(chance.randint(1, 100)):
            moment += cadence * chance.choice([1, 1, 1, 1, 1, 1, 1, 1, 2, 3, 17])
            jitter = cadence * chance.uniform(-0.4, 0.4) if chance.random() < 0.5 else timedelta(0)
            times.add(moment + jitter)
            if chance.random() < 0.05:
                times.add(moment + jitter + timedelta(microseconds=chance.randint(1, 5)))
    return Scenario(name, kind, cadence, active_from, active_to, tuple(sorted(times)))


def store(
    connection: Connection, devices: list[Scenario], *, keep: float = 1.0, seed: int = 0, schema: str = "flux"
) -> None:
    """Register devices and store their rows, or a random share of them; the rest can be stored later."""
    chance = random.Random(seed)
    registry = [
        (str(UUID(int=number + 1)), one.name, one.kind, one.cadence, one.active_from, one.active_to)
        for number, one in enumerate(devices)
    ]
    with connection, connection.cursor() as cursor:
        execute_values(
            cursor,
            f"INSERT INTO {schema}.mg_device_registry"
            " (id, name, type, site, profile, cadence, active_from, active_to) VALUES %s"
            " ON CONFLICT DO NOTHING",
            registry,
            template="(%s, %s, %s, 'WLCE', 'p', %s, %s, %s)",
        )
        for kind in ("bess", "meter"):
            rows = [
                (row[0], moment)
                for row, one in zip(registry, devices, strict=True)
                if one.kind == kind
                for moment in one.times
                if keep >= 1 or chance.random() < keep
            ]
            # The same row a second time, as an upload that was repeated offers it.
            rows += [row for row in rows if chance.random() < 0.02]
            query = (
                f"INSERT INTO {schema}.mg_{kind}_readings (device_id, time) VALUES %s ON CONFLICT DO NOTHING"
            )
            execute_values(cursor, query, rows, page_size=5000)


def windows(seed: int) -> list[tuple[datetime, datetime, float]]:
    """Return random windows with their k, one of each length."""
    chance = random.Random(seed)
    found = []
    for length_s in WINDOWS_S:
        start = BASE + timedelta(seconds=chance.randint(-3600, 3600), microseconds=chance.randint(0, 999_999))
        found.append((start, start + timedelta(seconds=length_s), chance.choice([1.5, 2.0, 3.0])))
    return found


def compare(report: Report, devices: list[Scenario], k: float) -> int:
    """Hold a report against the oracle; return how many gaps both have found."""
    asked = {coverage.device.name: coverage for coverage in report.devices}
    gaps = 0
    for one in devices:
        expected = oracle(one, (report.start, report.settled_to), k)
        if expected is None:
            assert one.name not in asked, one
            continue
        coverage = asked.pop(one.name)
        found = [(gap.start, gap.end, gap.missing) for gap in coverage.gaps]
        assert found == expected, (one, report.start, report.end, k)
        inside = [moment for moment in one.times if coverage.start <= moment < coverage.end]
        assert coverage.present == len(inside), one
        gaps += len(found)
    assert not asked
    return gaps


def oracle(
    one: Scenario, window: tuple[datetime, datetime], k: float
) -> list[tuple[datetime, datetime, int]] | None:
    """Walk along the moments one by one, as a person would with a list and a ruler. None: not in service."""
    start = max(one.active_from, window[0])
    end = min(one.active_to or window[1], window[1])
    if start >= end:
        return None
    before = [moment for moment in one.times if start - one.cadence * k <= moment < start]
    previous = max(before) if before else start - one.cadence
    found = []
    for moment in [*sorted(moment for moment in one.times if start <= moment < end), end]:
        if moment - previous > one.cadence * k:
            ratio = Decimal((moment - previous) // timedelta(microseconds=1)) / Decimal(
                one.cadence // timedelta(microseconds=1)
            )
            missing = int(ratio.quantize(Decimal(1), ROUND_HALF_UP)) - 1
            found.append((previous, moment, max(0, missing)))
        previous = moment
    return found
