"""Knock at many ssh servers at once, to partition targets before anything is done."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Endpoint:
    """Where a host's ssh server listens."""

    name: str
    address: str
    port: int


@dataclass(frozen=True)
class Knock:
    """What a host answered: `reachable`, and in plain words why not."""

    name: str
    reachable: bool
    message: str


def probe_all(endpoints: list[Endpoint], *, timeout_s: float = 3.0, parallel: int = 200) -> dict[str, Knock]:
    """Connect to every endpoint and read its ssh banner; takes `timeout_s` per `parallel` hosts at most.

    An open port is not enough: a frozen host accepts connections in its kernel and never answers, so
    only the banner counts.
    """

    async def run() -> list[Knock]:
        gate = asyncio.Semaphore(parallel)

        async def one(endpoint: Endpoint) -> Knock:
            async with gate:
                return await _knock(endpoint, timeout_s)

        return list(await asyncio.gather(*(one(endpoint) for endpoint in endpoints)))

    return {knock.name: knock for knock in asyncio.run(run())}


async def _knock(endpoint: Endpoint, timeout_s: float) -> Knock:
    where = f"{endpoint.address} port {endpoint.port}"
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(endpoint.address, endpoint.port)
            banner = await reader.readline()
    except TimeoutError:
        what = "no answer" if writer is None else "the port is open, but no ssh banner came"
        return Knock(endpoint.name, False, f"{where}: {what} within {timeout_s:g} s")
    except (OSError, ValueError) as error:
        return Knock(endpoint.name, False, f"{where}: {_plain(error)}")
    finally:
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    if not banner.startswith(b"SSH-"):
        return Knock(endpoint.name, False, f"{where}: something answered that is not an ssh server")
    return Knock(endpoint.name, True, f"{where}: ssh answered")


def _plain(error: Exception) -> str:
    number = getattr(error, "errno", None)
    # asyncio's own text for a refused connection names tuples; the system's text is for people. Negative
    # numbers are the resolver's and have a text of their own.
    if isinstance(number, int) and number > 0:
        return os.strerror(number)
    return str(getattr(error, "strerror", None) or error)
