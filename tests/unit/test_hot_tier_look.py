"""The figures of the hot tier, the command and the job, against a real PostgreSQL and a real Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hot_tier_world import BATTERY, METER, NAMES, World, write_settings
from redis_server import PASSWORD, RedisServer

from stationkeeper.hot_tier import command
from stationkeeper.hot_tier.connection import settings_of
from stationkeeper.hot_tier.judge import Limits, judge, lines
from stationkeeper.hot_tier.look import Look, Question, look
from stationkeeper.hot_tier.lookups import Hits, noted, of_readers
from stationkeeper.jobs.interface import JobError, JobSettings
from stationkeeper.jobs.work.cache_refresh import work
from stationkeeper.telemetry.source import TelemetryError

HOUR = 3600


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    running = RedisServer("--maxmemory", "64mb", "--maxmemory-policy", "noeviction")
    yield running
    running.remove()


@pytest.fixture
def world(postgres_settings: dict[str, Any], server: RedisServer) -> Iterator[World]:
    server.admin.flushall()
    server.admin.config_resetstat()
    made = World(postgres_settings, server)
    for device in (BATTERY, METER):
        made.rows(device, 3 * HOUR, 30)
    yield made
    made.connection.close()


def ask(world: World, **options: Any) -> Look:
    question = Question("flux", **({"sample_s": 0, "settle_s": 0} | options))
    return look(world.connection, settings_of(world.server.settings()), question)


def states(seen: Look, **limits: Any) -> dict[str, tuple[str, str]]:
    return {one.name: (one.state, one.message) for one in judge(seen, Limits(**limits))}


def test_a_fresh_cache_is_the_database(world: World) -> None:
    outcome = world.refresh()
    before = world.server.dump()
    seen = ask(world)
    assert {state for state, _ in states(seen).values()} == {"ok"}
    assert sum(one.points for one in seen.devices) == outcome.points
    assert seen.patterns["timeseries"].keys == seen.patterns["latest"].keys == 2
    assert seen.bytes_per_point is not None
    assert 50 < seen.bytes_per_point < 400
    assert seen.biggest[0][0] in (NAMES.timeseries(BATTERY), NAMES.timeseries(METER))
    assert "points of 2 devices are those of the database" in lines(seen, judge(seen, Limits()))[1]
    assert json.dumps(seen.as_dict())
    assert world.server.dump() == before


def test_every_difference_is_told(world: World) -> None:
    assert states(ask(world))["refreshed"][0] == "critical"
    assert "has no newest row" in states(ask(world))["equality"][1]
    world.refresh()
    client, key = world.server.admin, NAMES.timeseries(BATTERY)
    whole = client.zrange(key, 0, -1, withscores=True)

    def equality() -> tuple[str, str]:
        return states(ask(world))["equality"]

    client.zremrangebyrank(key, 0, 0)
    assert equality()[0] == "ok"
    assert "1 late rows come with the next refresh" in equality()[1]
    client.zremrangebyrank(key, 0, 9)
    state, message = equality()
    assert state == "degraded"
    assert f"{BATTERY} lacks 11 of {len(whole)} points" in message
    client.unlink(key)
    assert equality() == ("critical", f"{BATTERY} has no point at all: run cache_refresh with force")
    client.zadd(key, {member + "9": score for member, score in whole})
    assert "points by chance with other values" in equality()[1]
    client.zadd(key, dict(whole))
    assert f"{len(whole)} points that the database does not have" in " ".join(ask(world).devices[0].wrong)
    world.refresh(force=True)
    client.hset(NAMES.latest(METER), "power_kw", "12345")
    assert equality() == (
        "critical",
        f"{METER} has a newest row with another power_kw: run cache_refresh with force",
    )
    world.rows(METER, 5, 4)
    assert "the database has one of" in " ".join(ask_after(world, METER))


def ask_after(world: World, device: str) -> tuple[str, ...]:
    """Look as if the last refresh had been now: a newer row than the cached newest one has to show."""
    world.server.admin.hset(NAMES.refreshed, "when", (world.now + timedelta(seconds=60)).isoformat())
    return next(one.wrong for one in ask(world).devices if one.device == device)


def test_limits(world: World) -> None:
    world.refresh()
    seen = ask(world)
    assert states(seen, big_key_mib=0.001)["keys"][0] == "degraded"
    world.server.admin.persist(NAMES.latest(BATTERY))
    assert "1 latest keys without TTL" in states(ask(world))["keys"][1]
    old = replace(seen, age_s=400.0)
    assert states(old)["refreshed"][0] == "degraded"
    assert states(old, critical_age_s=399, max_age_s=300)["refreshed"][0] == "critical"

    def memory(**figures: Any) -> tuple[str, str]:
        return states(replace(seen, server=replace(seen.server, **figures)))["memory"]

    assert memory(maxmemory=0)[0] == "degraded"
    assert memory(used_memory=int(64 * 2**20 * 0.9))[0] == "degraded"
    assert memory(used_memory=64 * 2**20)[0] == "critical"
    assert "evicted" in memory(evicted_keys=3)[1]
    assert "policy allkeys-lru" in memory(policy="allkeys-lru")[1]
    assert "fragmentation 2" in memory(used_memory=2**30, maxmemory=2**33, fragmentation=2.0)[1]

    def hits(start: Hits, sampled: Hits | None = None, readers: Hits | None = None) -> tuple[str, str]:
        server = replace(seen.server, since_start=start, sampled=sampled)
        return states(replace(seen, server=server, readers=readers))["hit rate"]

    assert hits(Hits(1, 9)) == ("ok", "too few look-ups to judge: 10 since the start")
    assert hits(Hits(1, 9999))[0] == "degraded"
    assert hits(Hits(99_000, 1_000), Hits(10, 90))[0] == "ok"
    assert hits(Hits(99_000, 1_000), Hits(500, 1500)) == (
        "degraded",
        "25.0 % of 2000 look-ups now, target 90 %",
    )
    with pytest.raises(TelemetryError, match="max_age_s is 5000"):
        Limits(max_age_s=5000)


def test_hits_are_measured(world: World) -> None:
    world.refresh()
    client = world.server.client()

    def readers(_: float) -> None:
        for key in [NAMES.latest(BATTERY)] * 3 + ["flux:nothing"]:
            client.hgetall(key)

    seen = look(
        world.connection, settings_of(world.server.settings()), Question("flux", sample_s=1), sleep=readers
    )
    assert seen.server.sampled == Hits(3, 1)
    readers(0)
    # What a refresh asks does not count; what a look asks does.
    assert world.refresh().readers.misses == 2
    before = work_of_readers(world)
    world.refresh()
    readers(0)
    assert work_of_readers(world) == Hits(before.hits + 3 + _LOOK, before.misses + 1)


# Look-ups of one look: the stamp, TTL of six keys, three for each device; memory does not count.
_LOOK = 1 + 6 + 2 * 3


def work_of_readers(world: World) -> Hits:
    seen = ask(world).readers
    assert seen is not None
    return seen


def test_readers_are_told_from_the_refresh() -> None:
    stamp = noted(Hits(10, 2), Hits(500, 3))
    assert of_readers(stamp, Hits(600, 13)) == Hits(110, 12)
    assert of_readers(stamp, Hits(7, 1)) == Hits(17, 3)
    assert of_readers({"when": "2026"}, Hits(7, 1)) is None
    assert of_readers(noted(Hits(200_000, 4), Hits(1, 1)), Hits(1, 1)) == Hits(100_000, 2)


def test_command(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    database, cache = write_settings(tmp_path, world)
    files = ["--database-file", str(database), "--redis-file", str(cache)]
    assert command.run(["refresh", "--check", *files]) == 0
    assert not world.server.dump()
    assert command.run(["check", "--sample-s", "0", *files]) == 1
    assert command.run(["refresh", *files]) == 0
    capsys.readouterr()
    assert command.run(["check", "--sample-s", "0", "--json", *files]) == 0
    assert json.loads(capsys.readouterr().out)["checks"][0]["state"] == "ok"
    cache.write_text(json.dumps(world.server.settings() | {"password": "wrong"}))
    assert command.run(["refresh", *files]) == 2
    error = capsys.readouterr().err
    assert "refuses user flux" in error
    assert PASSWORD not in error


def test_job(world: World, tmp_path: Path) -> None:
    settings = JobSettings("flux", world.database, tmp_path, tmp_path)
    with pytest.raises(JobError, match="no settings of Redis"):
        work(settings)
    settings = replace(settings, redis=settings_of(world.server.settings()))
    first = work(settings)
    for key in (NAMES.latest(BATTERY), "flux:nothing"):
        world.server.client().hgetall(key)
    second = work(settings)
    assert first.records == first.evidence["points"] > 300
    assert second.records == 0
    metrics = {one.name: one.value for one in second.metrics}
    assert metrics["stationkeeper_hot_tier_points"] == first.records
    assert metrics["stationkeeper_hot_tier_refreshed_timestamp_seconds"] >= world.now.timestamp()
    assert "stationkeeper_hot_tier_hit_ratio" not in {one.name for one in first.metrics}
    assert metrics["stationkeeper_hot_tier_hit_ratio"] == 0.5
    assert work(replace(settings, options={"force": True})).evidence["devices"] == []
