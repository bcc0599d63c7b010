"""Redis, with errors that say what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from stationkeeper.hot_tier.arguments import DEFAULT_PORT
from stationkeeper.jobs.interface import RedisSettings
from stationkeeper.telemetry.source import TelemetryError

_TIMEOUT_S = 10.0


class HotTierError(TelemetryError):
    """The hot tier cannot be used; the message says why and what to do, without a secret."""


def settings_of(given: Mapping[str, Any]) -> RedisSettings:
    """Return settings from plain data. Raises HotTierError that names what is missing."""
    missing = [key for key in ("host", "user", "password") if not given.get(key)]
    if missing:
        raise HotTierError(f"the settings of Redis lack {', '.join(missing)}")
    port = given.get("port") or DEFAULT_PORT
    return RedisSettings(str(given["host"]), int(port), str(given["user"]), str(given["password"]))


@contextmanager
def connected(settings: RedisSettings) -> Iterator[redis.Redis]:
    """Connect, and give every error of Redis within the block as a HotTierError."""
    client = redis.Redis(
        host=settings.host,
        port=settings.port,
        username=settings.user,
        password=settings.password,
        socket_timeout=_TIMEOUT_S,
        socket_connect_timeout=_TIMEOUT_S / 2,
        # A command that was perhaps done is not sent twice; the next refresh mends what this one did not do.
        retry=Retry(NoBackoff(), 0),
        client_name="stationkeeper-hot-tier",
        decode_responses=True,
        # A stranger's key may be no text; it still has to be named, and removed if it is in the way.
        encoding_errors="surrogateescape",
    )
    try:
        client.ping()
        yield client
    except exceptions.RedisError as error:
        raise HotTierError(explain(error, settings)) from None
    finally:
        client.close()


def explain(error: exceptions.RedisError, settings: RedisSettings) -> str:
    """Return what an error of Redis means for an operator, and what to do."""
    where = f"Redis at {settings.host}:{settings.port}"
    text = " ".join(str(error).split())
    for kinds, code, meaning in _MEANINGS:
        if isinstance(error, kinds) or (code and code in text):
            return f"{where} {meaning.format(user=settings.user, text=text, timeout_s=_TIMEOUT_S)}"
    return f"{where} refused: {text}"


# The first that fits: some kinds of errors are special cases of later ones. An error within a pipeline may
# have its code in the text only.
_MEANINGS: tuple[tuple[tuple[type[Exception], ...], str, str], ...] = (
    (
        (exceptions.AuthenticationError,),
        "WRONGPASS",
        "refuses user {user}: wrong name or password. Its users are redis_users of the inventory; run"
        " site.yml for the hub after a password was changed",
    ),
    (
        (exceptions.BusyLoadingError,),
        "LOADING",
        "still loads its data from disk: wait until INFO persistence says loading:0, then run again",
    ),
    (
        (exceptions.TimeoutError,),
        "",
        "did not answer within {timeout_s:g} s: look at the load of its host, and at SLOWLOG GET",
    ),
    (
        (exceptions.NoPermissionError,),
        "NOPERM",
        "does not let user {user} do that ({text}): give it what is missing in redis_users of the inventory,"
        " and run site.yml for the hub",
    ),
    (
        (exceptions.ReadOnlyError,),
        "READONLY",
        "is a replica and takes no writes: give the address of the primary, which INFO replication names",
    ),
    (
        (exceptions.OutOfMemoryError,),
        "OOM command not allowed",
        "has reached maxmemory and refuses writes: raise redis_maxmemory of the hub, or remove what"
        " `stationkeeper cache check` lists as big. What was there before this run can still be read",
    ),
    (
        (),
        "MISCONF",
        "cannot save to its disk and refuses writes: make room in its directory, and look at its log",
    ),
    (
        (),
        "WRONGTYPE",
        "has something else under a key of the hot tier, which nobody else may write: remove it with"
        " UNLINK ({text})",
    ),
    (
        (exceptions.ConnectionError,),
        "",
        "cannot be reached or went away ({text}): look at redis-server.service on that host",
    ),
)
