"""Fleet stop over Modbus: zero power at once on all devices in parallel, then proof by measured power.

Not a certified safety function: it complements the hardware stop and the battery's own protection and
never replaces them.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.stop_device import DeviceStop
from stationkeeper.modbus.stop_evidence import SiteState, worst
from stationkeeper.modbus.stop_types import Endpoint, StopOptions, StopResult, Target

__all__ = [
    "Endpoint",
    "SiteState",
    "StopOptions",
    "StopResult",
    "Target",
    "stop_all",
    "stop_devices",
    "worst",
]


def stop_devices(targets: Sequence[Target], options: StopOptions) -> list[StopResult]:
    """Stop all targets in parallel and return one result each, in their order.

    Never raises for a device: whatever one does is in its result, and costs the others no time. Ends at
    the latest `window_s + hold_s` and one response time-out after the start. A device whose power does not
    end in half the window, or that another master drives, gets its own stop command too.
    """
    return asyncio.run(stop_all(targets, options))


# One processor core has time for about this many looks with their decoding, and for the writes beside.
_LOOKS_PER_S = 1000
# Standard streams, libraries, ssh clients with their pipes: whatever else is open meanwhile.
_OTHER_FILES = 512


def allow_files(connections: int) -> None:
    """Raise this process's limit of open files, as far as the system lets it: many start with 1024.

    Beyond that, connections that find no place are reported as unreachable, device by device.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        limit = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


async def stop_all(
    targets: Sequence[Target],
    options: StopOptions,
    judged: Callable[[int, StopResult], None] = lambda _number, _result: None,
) -> list[StopResult]:
    """Do what `stop_devices` does within a running loop.

    `judged` gets each target's number and result as soon as that one is judged; it must not block or raise.
    """
    started = time.monotonic()
    gaps: dict[tuple[str, int], float] = {}
    for target in targets:
        for end in (target.device, target.meter):
            if end is not None:
                key = (end.host, end.port)
                gaps[key] = max(gaps.get(key, 0.0), end.profile.min_request_gap_ms / 1000)
    allow_files(len(gaps))
    # One connection for each address: many gateways have room for no more.
    clients = {
        key: StrictClient(*key, options.response_timeout_s, options.connect_timeout_s, min_gap_s=gap)
        for key, gap in gaps.items()
    }
    pace = replace(options, interval_s=max(options.interval_s, len(targets) / _LOOKS_PER_S))
    runs = [DeviceStop(target, pace, clients, started) for target in targets]

    async def stop_one(number: int, run: DeviceStop) -> None:
        try:
            await run.run()
        except Exception as failure:
            # A defect that one device's data brings out must not cost the others their stop.
            run.result.state = SiteState.UNKNOWN
            run.result.message = f"internal error: {failure!r}"
            run.result.changed = bool(run.result.writes)
        judged(number, run.result)

    try:
        await asyncio.gather(*(stop_one(number, run) for number, run in enumerate(runs)))
        return [run.result for run in runs]
    finally:
        for client in clients.values():
            await client.close()
