"""The last 24 hours into the hot tier: what is new, and what came late."""

from __future__ import annotations

from dataclasses import asdict

from stationkeeper.hot_tier.connection import connected
from stationkeeper.hot_tier.look import figures
from stationkeeper.hot_tier.refresh import Request, refresh
from stationkeeper.jobs.interface import JobError, JobResult, JobSettings, Sample
from stationkeeper.telemetry.source import reading, rfc3339


def work(settings: JobSettings) -> JobResult:
    """Refresh; records are the points that were added or removed. Option ``force`` makes everything anew.

    Raises JobError without settings of Redis, HotTierError or TelemetryError when it cannot be done.
    """
    if settings.redis is None:
        raise JobError("the job has no settings of Redis: add `redis` with host, port, user and password")
    request = Request(settings.system, settings.schema, force=bool(settings.options.get("force")))
    with reading(settings.database) as connection:
        outcome = refresh(connection, settings.redis, request)
    with connected(settings.redis) as client:
        server = figures(client, sample_s=0)
    added, removed = (sum(getattr(one, name) for one in outcome.devices) for name in ("added", "removed"))
    values = [
        ("refreshed_timestamp_seconds", "When the cache was last the database's", outcome.when.timestamp()),
        ("points", "Points of all series", outcome.points),
        ("used_memory_bytes", "Memory that Redis uses", server.used_memory),
        ("maxmemory_bytes", "Memory that Redis may use, 0 for no limit", server.maxmemory),
        ("evicted_keys", "Keys that Redis dropped for want of memory since it started", server.evicted_keys),
    ]
    if outcome.readers.percent is not None:
        values.append(
            (
                "hit_ratio",
                "Share of the readers' look-ups that found their key",
                outcome.readers.percent / 100,
            )
        )
    return JobResult(
        records=added + removed,
        evidence={
            "when": rfc3339(outcome.when),
            "points": outcome.points,
            "added": added,
            "removed": removed,
            "removed_keys": outcome.removed_keys,
            "devices": [asdict(one) for one in outcome.devices if one.changed],
        },
        metrics=[Sample(f"stationkeeper_hot_tier_{name}", text, value) for name, text, value in values],
    )
