"""The runbooks cache_refresh and cache_check on a real PostgreSQL and a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from database_logins import database_logins
from hot_tier_world import BATTERY, METER, NAMES, World
from local_project import LocalProject
from maintenance_database import ROLES
from redis_server import PASSWORD, RedisServer

HOUR = 3600


@pytest.fixture
def world(postgres_settings: dict[str, Any]) -> Iterator[World]:
    server = RedisServer("--maxmemory", "64mb")
    made = World(postgres_settings, server)
    with made.connection, made.connection.cursor() as cursor:
        for role in ROLES:
            cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,))
            if not cursor.fetchone():
                cursor.execute(f"CREATE ROLE {role}")
        cursor.execute("ALTER ROLE flux_reader LOGIN PASSWORD %s", (postgres_settings["password"],))
        cursor.execute("GRANT USAGE ON SCHEMA flux TO flux_reader")
        cursor.execute("GRANT SELECT ON ALL TABLES IN SCHEMA flux TO flux_reader")
    for device in (BATTERY, METER):
        made.rows(device, 3 * HOUR, 30)
    yield made
    made.connection.close()
    server.remove()


def test_the_cache_is_refreshed_and_judged(world: World, tmp_path: Path) -> None:
    project = LocalProject(
        tmp_path,
        {
            **database_logins(world.database, world.database["password"]),
            "stationkeeper_system": "flux",
            "stationkeeper_state": str(tmp_path / "state"),
            "secret_redis_flux_password": PASSWORD,
        },
        {"hubs": {"fluxhub": {"ansible_host": "127.0.0.1", "redis_port": world.server.port}}},
    )
    gone = NAMES.latest("GONE-1")
    world.server.admin.hset(gone, "time", "x")
    before = world.server.dump()
    assert project.run("cache_refresh", "--check", target="fluxhub") == 0, project.output
    assert "WLCE-BESS-01: 180 points, +180 -0, newest row, built anew" in project.output
    assert f"{gone}: removed" in project.output
    assert world.server.dump() == before

    assert project.run("cache_refresh", target="fluxhub", reason="stale dashboard") == 0, project.output
    assert "360 points, +360 -0, 1 keys removed" in project.output
    assert project.changed
    assert gone not in world.server.dump()

    # A degraded hit rate alone does not fail the check; a point that nobody has measured does.
    assert project.run("cache_check", sample_s=0, min_lookups=1, min_hit_percent=100) == 0, project.output
    assert "target 100 %" in project.output
    world.server.admin.zadd(NAMES.timeseries(BATTERY), {"7,1": world.now.timestamp() * 1000 - 90_000})
    assert project.run("cache_check", sample_s=0) == 2
    assert "points that the database does not have" in project.output
    assert PASSWORD not in project.output
