"""BigQuery as a source, with a stand-in for its client: no query of this test has seen the real service."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from backfill_world import START, World, make_world
from postgres_cluster import PostgresCluster

from stationkeeper.telemetry.backfill.bigquery import BigQuerySource
from stationkeeper.telemetry.source import TelemetryError

TYPES = {
    "timestamp with time zone": "TIMESTAMP",
    "uuid": "STRING",
    "bigint": "INTEGER",
    "integer": "INTEGER",
    "double precision": "FLOAT",
    "text": "STRING",
}


class Row:
    """A row as the client gives it."""

    def __init__(self, values: tuple[Any, ...]) -> None:
        self._values = values

    def values(self) -> tuple[Any, ...]:
        return self._values

    def __getitem__(self, place: int) -> Any:
        return self._values[place]


class Client:
    """Answers from the source database, by the parameters of the query."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.queries: list[str] = []
        self.changed_types: dict[str, str] = {}
        self.extra: list[tuple[Any, ...]] = []
        self.failure: Exception | None = None

    def close(self) -> None:
        """Nothing is open."""

    def get_table(self, name: str) -> Any:
        if self.failure:
            raise self.failure
        columns = self.world.on(
            self.world.source,
            "SELECT column_name, data_type FROM information_schema.columns"
            " WHERE table_schema = 'flux' AND table_name = %s ORDER BY ordinal_position",
            name.rpartition(".")[2],
        )
        fields = [
            types.SimpleNamespace(name=name, field_type=self.changed_types.get(name, TYPES[kind]))
            for name, kind in columns
        ]
        return types.SimpleNamespace(schema=fields)

    def query(self, text: str, job_config: Any) -> Any:
        self.queries.append(text)
        device, start, end = (one.value for one in job_config.query_parameters)
        match = re.fullmatch(r"SELECT (DISTINCT )?(.+?)( AS \w+)? FROM `([^`]+)` WHERE [^`]+", text)
        assert match
        columns, table = match[2].replace("`", ""), match[4].rpartition(".")[2]
        found = self.world.on(
            self.world.source,
            f"SELECT {columns} FROM flux.{table}"
            " WHERE device_id = %s AND time >= %s AND time < %s"
            + ("" if "COUNT" in text else " ORDER BY time"),
            device,
            start,
            end,
        )
        rows = [Row(row) for row in (*found, *self.extra)]
        return types.SimpleNamespace(result=lambda page_size: iter(rows))


@pytest.fixture
def world(postgres_cluster: PostgresCluster) -> Iterator[World]:
    yield from make_world(postgres_cluster)


@pytest.fixture
def client(world: World, monkeypatch: pytest.MonkeyPatch) -> Client:
    library = types.ModuleType("google.cloud.bigquery")
    library.ScalarQueryParameter = lambda name, kind, value: types.SimpleNamespace(  # type: ignore[attr-defined]
        name=name, kind=kind, value=value
    )
    library.QueryJobConfig = types.SimpleNamespace  # type: ignore[attr-defined]
    cloud = types.ModuleType("google.cloud")
    cloud.bigquery = library  # type: ignore[attr-defined]
    for name, module in (("google", types.ModuleType("google")), ("google.cloud", cloud)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "google.cloud.bigquery", library)
    return Client(world)


def source(client: Client) -> BigQuerySource:
    return BigQuerySource("lake", "project.dataset", client=client)


def test_rows_come_from_the_dataset(world: World, client: Client) -> None:
    device = world.device("A", cadence_s=10)
    world.rows(world.source, device, count=720, cadence_s=10)
    world.gap(device, START - timedelta(seconds=10), START + timedelta(hours=2), 720)
    outcome = world.recover(source(client))
    assert (outcome.rows_new, outcome.entries) == (720, {"recovered": 1})
    assert world.checksum(world.target) == world.checksum(world.source)
    assert "FROM `project.dataset.mg_bess_readings` WHERE device_id = @device" in client.queries[0]
    assert client.queries[0].startswith("SELECT DISTINCT `time`, ")


def test_two_rows_of_one_moment_are_refused(world: World, client: Client) -> None:
    device = world.device("A", cadence_s=10)
    world.rows(world.source, device, count=10, cadence_s=10)
    world.gap(device, START - timedelta(seconds=10), START + timedelta(seconds=100), 10)
    row = list(world.on(world.source, "SELECT * FROM flux.mg_bess_readings ORDER BY time LIMIT 1")[0])
    row[3] = 77
    client.extra = [tuple(row)]
    told = world.recover(source(client)).failed_sources["lake"]
    assert told.startswith("lake has 1 times two rows of device")
    assert world.checksum(world.target)[0] == 0


def test_rows_that_nobody_asked_for_are_refused(world: World, client: Client) -> None:
    device = world.device("A", cadence_s=10)
    world.rows(world.source, device, count=100, cadence_s=10)
    world.gap(device, START - timedelta(seconds=10), START + timedelta(seconds=100), 10)
    row = world.on(world.source, "SELECT * FROM flux.mg_bess_readings ORDER BY time DESC LIMIT 1")[0]
    client.extra = [row]
    told = world.recover(source(client)).failed_sources["lake"]
    assert told.startswith("lake sent 1 rows that nobody asked for")
    assert world.checksum(world.target)[0] == 0


@pytest.mark.criterion("GR-10")
def test_a_datetime_has_no_zone_and_is_refused(world: World, client: Client) -> None:
    client.changed_types = {"time": "DATETIME"}
    with pytest.raises(
        TelemetryError, match="is of type timestamp without time zone; times without a zone are"
    ):
        world.recover(source(client))


def test_it_counts_for_check_mode(world: World, client: Client) -> None:
    device = world.device("A", cadence_s=10)
    world.rows(world.source, device, count=100, cadence_s=10)
    from stationkeeper.telemetry.source import Device

    asked = Device(device, "A", "WLCE", "bess", "generic_battery", 10.0)
    assert source(client).count(asked, START, datetime(2026, 1, 6, tzinfo=UTC)) == 100


def test_a_service_that_fails_is_an_error_an_operator_understands(world: World, client: Client) -> None:
    client.failure = RuntimeError("403 permission\ndenied")
    with pytest.raises(TelemetryError, match="BigQuery does not answer: 403 permission denied"):
        world.recover(source(client))


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud", None)
    with pytest.raises(TelemetryError, match=r"pip install 'stationkeeper\[bigquery\]'"):
        BigQuerySource("lake", "project.dataset")


def test_a_dataset_is_a_project_and_a_name() -> None:
    with pytest.raises(TelemetryError, match=r"write project\.dataset"):
        BigQuerySource("lake", "dataset`; DROP TABLE x")
