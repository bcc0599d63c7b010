"""The stop of several stations at once: Modbus and ssh side by side, then the station itself where needed."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from stationkeeper.modbus.stop import stop_all
from stationkeeper.modbus.stop_evidence import SiteState
from stationkeeper.modbus.stop_types import StopOptions, StopResult, Target
from stationkeeper.station.stopping import judge, needs_local_stop, with_local
from stationkeeper.stopping.bundle import Bundle, BundleError, Ssh
from stationkeeper.stopping.ssh import Logins
from stationkeeper.stopping.station_latch import Order, set_over_ssh

LOCAL_PROGRAM = "/opt/stationkeeper/venv/bin/stationkeeper"
# On top of the station's own time: the login, the start of Python, and four samples at 60 s.
_LOCAL_MARGIN_S = 270.0


@dataclass(frozen=True, slots=True)
class Site:
    """One station to stop: its batteries, its login, whom to call; ``problem`` when its data is broken."""

    name: str
    targets: tuple[Target, ...]
    ssh: Ssh
    contact: str
    problem: str = ""


def sites_of(bundle: Bundle, names: Sequence[str]) -> list[Site]:
    """Return the chosen stations. One with broken data still gets its latch, and costs the others nothing."""
    sites = []
    for name in names:
        station = bundle.stations[name]
        try:
            sites.append(Site(name, tuple(bundle.targets(name)), station.ssh, station.contact))
        except BundleError as error:
            sites.append(Site(name, (), station.ssh, station.contact, str(error)))
    return sites


async def stop_fleet(sites: Sequence[Site], order: Order, options: StopOptions) -> list[dict[str, Any]]:
    """Stop all stations in parallel; return station, status, message, stopped, contact, evidence of each.

    Latch and zero write of a station do not wait for each other, and no station waits for another. Never
    raises for what a station does.
    """
    loop = asyncio.get_running_loop()
    waiting: list[asyncio.Future[StopResult]] = []
    groups: list[list[asyncio.Future[StopResult]]] = []
    targets: list[Target] = []
    for site in sites:
        own: list[asyncio.Future[StopResult]] = [loop.create_future() for _ in site.targets]
        groups.append(own)
        waiting += own
        targets += site.targets
    logins = Logins()
    direct = asyncio.create_task(
        stop_all(targets, options, lambda number, result: waiting[number].set_result(result))
    )
    done = await asyncio.gather(
        *(_stop_site(site, own, order, options, logins) for site, own in zip(sites, groups, strict=True))
    )
    await direct
    return list(done)


async def _stop_site(
    site: Site,
    direct: Sequence[asyncio.Future[StopResult]],
    order: Order,
    options: StopOptions,
    logins: Logins,
) -> dict[str, Any]:
    latch, results = await asyncio.gather(
        _latch(site.ssh, order, logins, dry_run=options.dry_run), asyncio.gather(*direct)
    )
    devices = [as_data(result) for result in results]
    local: dict[str, Any] = {}
    if not options.dry_run and needs_local_stop(devices, latch):
        local = await stop_on_station(site, order, options, logins)
        devices = with_local(devices, local)
    outcome = judge(devices, latch, site.problem, site.contact, check_mode=options.dry_run)
    outcome["evidence"]["local"] = local
    return {
        "station": site.name,
        "contact": site.contact,
        "ssh": f"{site.ssh.user}@{site.ssh.host}".removeprefix("@"),
        "stopped": outcome["status"] in ("verified", "unchanged"),
        **outcome,
    }


async def _latch(ssh: Ssh, order: Order, logins: Logins, *, dry_run: bool) -> dict[str, Any]:
    # The zero writes of the whole fleet leave before the first login takes the processor.
    await asyncio.sleep(0.05)
    asked_at = utc_now()
    state = await set_over_ssh(ssh, order, logins, dry_run=dry_run)
    return {**state, "asked_at": asked_at, "answered_at": utc_now()}


async def stop_on_station(site: Site, order: Order, options: StopOptions, logins: Logins) -> dict[str, Any]:
    """Run the stop on the station against its own bus; return its `devices`, or `error`."""
    words = [
        "sudo", "-n", LOCAL_PROGRAM, "stop", "--local", "--json", "--station", site.name,
        "--reason", order.reason, "--run-id", order.run_id, "--owner", order.owner,
        "--window-s", f"{options.window_s:g}", "--hold-s", f"{options.hold_s:g}",
    ]  # fmt: skip
    asked_at = utc_now()
    timeout_s = options.window_s + options.hold_s + _LOCAL_MARGIN_S
    answer = await logins.run(site.ssh, shlex.join(words), "", timeout_s)
    local = understand_local(answer.output, answer.error)
    return {**local, "asked_at": asked_at, "answered_at": utc_now()}


def understand_local(output: str, error: str) -> dict[str, Any]:
    """Return what `stop --local --json` printed, or why there is nothing."""
    try:
        document: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        return {"devices": list(document["devices"])}
    except (ValueError, KeyError, IndexError, TypeError):
        return {"devices": [], "error": error or output.strip() or "the station gave no answer"}


def as_data(result: StopResult) -> dict[str, Any]:
    """Return a result as plain data for JSON."""
    return {**asdict(result), "state": str(result.state)}


def all_stopped(outcomes: Sequence[Mapping[str, Any]]) -> bool:
    """Whether every station is proven stopped and every battery `VERIFIED_ZERO`."""
    return all(
        outcome["stopped"]
        and all(device["state"] == SiteState.VERIFIED_ZERO for device in outcome["evidence"]["devices"])
        for outcome in outcomes
    )


def utc_now() -> str:
    """Return the wall clock, UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
