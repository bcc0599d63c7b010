"""The hot tier against a real PostgreSQL and a real Redis."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from hot_tier_world import BATTERY, METER, NAMES, World, write_settings
from redis_server import PASSWORD, RedisServer

from stationkeeper.database.connection import connect
from stationkeeper.hot_tier import rows
from stationkeeper.hot_tier.connection import HotTierError, explain, settings_of
from stationkeeper.hot_tier.keys import decode, moment
from stationkeeper.hot_tier.refresh import Request, refresh

HOUR = 3600


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    running = RedisServer()
    yield running
    running.remove()


@pytest.fixture
def world(postgres_settings: dict[str, Any], server: RedisServer) -> Iterator[World]:
    server.admin.flushall()
    made = World(postgres_settings, server)
    yield made
    made.connection.close()


def test_the_last_day_is_there(world: World) -> None:
    world.rows(BATTERY, 25 * HOUR, 10)
    world.rows(METER, 2 * HOUR, 10)
    outcome = world.refresh()
    client = world.server.client()
    assert outcome.changed
    fields = client.hget(NAMES.latest(BATTERY), "fields").split(",")
    assert fields == [
        *("power_kw", "setpoint_kw", "soe_percent", "voltage_v", "frequency_hz", "temperature_c"),
        *("status", "alarms"),
    ]
    points = client.zrange(NAMES.timeseries(BATTERY), 0, -1, withscores=True)
    with world.connection.cursor() as cursor:
        cursor.execute(
            "SELECT time, power_kw, soe_percent, status FROM flux.mg_bess_readings"
            " WHERE time >= %s - interval '1 day' AND time < %s ORDER BY 1",
            (outcome.when, outcome.when),
        )
        stored = cursor.fetchall()
    assert len(points) == len(stored) > 1400
    for (member, score), (time, power, soe, status) in zip(points, stored, strict=True):
        at, values = decode(member, fields)
        assert (at, values["power_kw"], values["soe_percent"], values["status"]) == (time, power, soe, status)
        assert values["voltage_v"] is None
        assert 0 <= (at - moment(int(score))).total_seconds() < 0.001
    latest = client.hgetall(NAMES.latest(BATTERY))
    assert latest["time"] == stored[-1][0].isoformat().replace("+00:00", "Z")
    assert float(latest["power_kw"]) == stored[-1][1]
    assert int(latest["seq"]) > 0
    assert latest["voltage_v"] == ""
    assert all(client.ttl(key) > 24 * HOUR for key in client.scan_iter())
    assert client.hget(NAMES.refreshed, "rows") == str(outcome.points)
    assert client.hgetall(NAMES.metrics)["devices_reporting"] == "2"


def test_incremental_gives_what_force_gives(world: World) -> None:
    world.rows(BATTERY, 20 * HOUR, 4 * HOUR)
    world.refresh()
    # New rows, rows that came late into two hours, rows that are not there any more, and another device.
    world.rows(BATTERY, 3 * HOUR, 10)
    world.rows(BATTERY, 23 * HOUR, 22 * HOUR)
    world.rows(BATTERY, 10 * HOUR + 30, 10 * HOUR + 10, step_s=5)
    world.execute(
        "DELETE FROM flux.mg_bess_readings WHERE time BETWEEN %s AND %s", world.ago(54000), world.ago(50000)
    )
    world.rows(METER, 2 * HOUR, 10)
    # A cached point that is too old, and one that has not happened yet.
    key = NAMES.timeseries(BATTERY)
    world.server.admin.zadd(key, {"old": 1000, "early": 1e14})
    foreseen = world.refresh(dry_run=True)
    outcome = world.refresh()
    change = outcome.devices[0]
    assert (change.device, change.built) == (BATTERY, False)
    assert change.removed > 60
    assert [(one.added, one.removed, one.points) for one in foreseen.devices] == [
        (one.added, one.removed, one.points) for one in outcome.devices
    ]
    incremental = world.content()
    assert not world.refresh().changed
    forced = world.refresh(force=True)
    assert [one.built for one in forced.devices] == [True, True]
    assert not forced.changed
    assert world.content() == incremental


def test_force_takes_changed_values(world: World) -> None:
    world.rows(BATTERY, HOUR, 60)
    world.refresh()
    world.execute("UPDATE flux.mg_bess_readings SET power_kw = 0 WHERE time > %s", world.ago(600))
    forced = world.refresh(force=True).devices[0]
    assert forced.added == forced.removed > 5


def test_a_series_in_another_form_is_made_anew(world: World) -> None:
    for device in (BATTERY, METER):
        world.rows(device, HOUR, 60)
    assert [one.built for one in world.refresh(BATTERY).devices] == [True]
    # As an older version left it: what was made since, by a run that was ended, is not made again.
    world.refresh()
    world.server.admin.hset(NAMES.latest(METER), "fields", "power_kw,other")
    assert world.refresh(dry_run=True).changed
    assert [one.built for one in world.refresh().devices] == [False, True]
    assert not world.refresh().changed


def test_stale_keys_go_and_foreign_ones_stay(world: World) -> None:
    for device in (BATTERY, METER):
        world.rows(device, HOUR, 60)
    world.refresh()
    foreign = ("other:node:X:latest", "flux:node:X:forecast", "flux:session:1", "flux:node:latest")
    world.server.admin.set(b"flux:node:\xff:latest", "no text")
    for key in foreign:
        world.server.admin.set(key, "1")
    world.server.admin.hset(NAMES.latest("GONE-1"), "time", "x")
    left = NAMES.building(NAMES.timeseries(BATTERY), "killed")
    world.server.admin.zadd(left, {"a": 1})
    world.execute("UPDATE flux.mg_device_registry SET active_to = now() WHERE name = %s", METER)
    gone = sorted(
        [
            left,
            "flux:node:\udcff:latest",
            NAMES.latest("GONE-1"),
            NAMES.latest(METER),
            NAMES.timeseries(METER),
        ]
    )
    # A run for some devices leaves other devices alone.
    assert world.refresh("WLCE-B*").removed_keys == [left]
    assert world.refresh(METER).removed_keys == [NAMES.latest(METER), NAMES.timeseries(METER)]
    world.server.admin.hset(NAMES.latest(METER), "time", "x")
    world.server.admin.zadd(NAMES.timeseries(METER), {"a": 1})
    assert world.refresh(dry_run=True).removed_keys == [one for one in gone if one != left]
    assert world.refresh().removed_keys == [one for one in gone if one != left]
    assert not set(gone) & set(world.server.dump())
    assert set(foreign) <= set(world.server.dump())


@pytest.mark.parametrize("force", [False, True])
def test_check_mode_writes_nothing(world: World, force: bool) -> None:
    world.rows(BATTERY, 2 * HOUR, HOUR)
    world.refresh()
    world.rows(BATTERY, HOUR, 60)
    world.rows(METER, HOUR, 60)
    world.server.admin.set(NAMES.latest("GONE-1"), "x")
    before = world.server.dump()
    foreseen = world.refresh(force=force, dry_run=True)
    assert foreseen.changed
    assert len(foreseen.lines()) == 3
    assert world.server.dump() == before


def test_readers_see_whole_series_only(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.rows(BATTERY, 20 * HOUR, 60)
    expected = world.refresh().points
    world.execute("UPDATE flux.mg_bess_readings SET power_kw = 0")
    key, reader = NAMES.timeseries(BATTERY), world.server.client()
    seen: list[int] = []
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            seen.append(reader.zcard(key))

    stream = rows.stream

    def watched(*arguments: Any) -> Iterator[Any]:
        for batch in stream(*arguments):
            seen.append(world.server.admin.zcard(key))
            yield batch

    monkeypatch.setattr(rows, "_FETCH", 100)
    monkeypatch.setattr(rows, "stream", watched)
    thread = threading.Thread(target=poll)
    thread.start()
    try:
        forced = world.refresh(force=True)
    finally:
        done.set()
        thread.join()
    assert forced.devices[0].added == expected
    assert len(seen) > 10
    assert set(seen) == {expected}


def test_killed_runs_leave_whole_series_and_the_next_one_mends_them(world: World, tmp_path: Path) -> None:
    for device in (BATTERY, METER):
        world.rows(device, 20 * HOUR, 60)
    world.refresh()
    before = world.content()
    for kind in ("bess", "meter"):
        world.execute(f"UPDATE flux.mg_{kind}_readings SET power_kw = 0")
    world.refresh(force=True)
    target = world.content()
    files = list(map(str, write_settings(tmp_path, world)))
    left_behind = 0
    for moment_of_death in (1, 6, 10, 13, 17, 20):
        restore(world, before)
        done = subprocess.run([sys.executable, "-c", _KILLED, str(moment_of_death), *files], check=False)
        assert done.returncode == -signal.SIGKILL
        seen = world.content()
        building = [key for key in seen if NAMES.pattern_of(key) == "building"]
        left_behind += len(building)
        assert set(seen) - set(building) == set(before)
        for device in (BATTERY, METER):
            keys = (NAMES.timeseries(device), NAMES.latest(device))
            assert [seen[key] for key in keys] in [[state[key] for key in keys] for state in (before, target)]
    assert left_behind > 0
    # It waits for the lock until the database notices that the last run is dead.
    world.refresh(force=True)
    assert world.content() == target


def restore(world: World, content: dict[str, Any]) -> None:
    """Put back what `World.content` has shown."""
    world.server.admin.flushall()
    for key, value in content.items():
        if isinstance(value, list):
            world.server.admin.zadd(key, dict(value))
        else:
            world.server.admin.hset(key, mapping=value)


_KILLED = """
import os, signal, sys
from redis.client import Pipeline
from stationkeeper.hot_tier import command, rows

rows._FETCH = 200
execute, calls = Pipeline.execute, 0

def killed(self, *arguments, **options):
    global calls
    calls += 1
    if calls == int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    return execute(self, *arguments, **options)

Pipeline.execute = killed
command.run(["refresh", "--force", "--database-file", sys.argv[2], "--redis-file", sys.argv[3]])
"""


def test_a_full_server_is_told_and_keeps_what_it_had(world: World) -> None:
    world.rows(BATTERY, 2 * HOUR, HOUR)
    world.refresh()
    before = world.server.dump()
    world.rows(BATTERY, 24 * HOUR, HOUR, step_s=2)
    used = world.server.admin.info("memory")["used_memory"]
    world.server.admin.config_set("maxmemory", used + 1_500_000)
    try:
        with pytest.raises(HotTierError, match=r"has reached maxmemory.*raise redis_maxmemory"):
            world.refresh(force=True)
    finally:
        world.server.admin.config_set("maxmemory", 0)
    assert world.server.dump() == before


def test_two_at_once_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stationkeeper.hot_tier.refresh._LOCK_WAIT_S", 0.2)
    with connect(world.database) as other, other.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(hashtext('stationkeeper hot tier'), hashtext('flux'))")
        with pytest.raises(HotTierError, match="another refresh of flux has been running"):
            world.refresh()
    other.close()
    world.refresh()


def test_errors_name_the_fix(world: World) -> None:
    settings = settings_of(world.server.settings())

    def message(**other: Any) -> str:
        with pytest.raises(HotTierError) as caught:
            refresh(world.connection, replace(settings, **other), Request("flux"))
        assert PASSWORD not in str(caught.value)
        return str(caught.value)

    assert "look at redis-server.service" in message(port=1)
    assert "refuses user flux: wrong name or password" in message(password="wrong")
    world.rows(BATTERY, HOUR, 60)
    assert "does not let user exporter do that" in message(user="exporter")
    world.server.admin.replicaof("127.0.0.1", 1)
    try:
        assert "is a replica and takes no writes" in message()
    finally:
        world.server.admin.replicaof("no", "one")
    assert "still loads its data" in explain(redis.BusyLoadingError("LOADING"), settings)
    with pytest.raises(HotTierError, match="no registered device matches NIX-"):
        world.refresh("NIX-*")
    world.server.admin.set(NAMES.timeseries(BATTERY), "not a series")
    assert "has something else under a key" in message()
    with pytest.raises(HotTierError, match="lack user, password"):
        settings_of({"host": "x"})


def test_the_user_of_the_services_may_not_flush(world: World) -> None:
    client = world.server.client()
    for command in ("FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG GET maxmemory"):
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.execute_command(command)
    assert client.info("stats")
