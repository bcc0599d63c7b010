"""Shared fixtures: a private, temporary PostgreSQL that the tests may do anything to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres_cluster import PostgresCluster
from small_disk import mounted


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[PostgresCluster]:
    """A running cluster for the whole session. Do not stop it: other tests use it."""
    cluster = PostgresCluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def private_postgres() -> Iterator[PostgresCluster]:
    """A running cluster of the test's own, to stop and start (costs about two seconds)."""
    cluster = PostgresCluster()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def postgres_settings(postgres_cluster: PostgresCluster) -> dict[str, Any]:
    """Settings of a fresh, empty database (superuser) for `stationkeeper.database.connection.connect`."""
    return postgres_cluster.create_database()


@pytest.fixture
def postgres_dsn(postgres_settings: dict[str, Any]) -> str:
    """The same fresh database as a libpq connection string."""
    return (
        f"host={postgres_settings['hosts'][0]} port={postgres_settings['port']} "
        f"dbname={postgres_settings['name']} user={postgres_settings['user']} "
        f"password={postgres_settings['password']}"
    )


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 2 MiB, to be filled with `small_disk.fill`."""
    with mounted("2m") as directory:
        yield directory
