"""Fleet stop over Modbus: zero power at once on all devices in parallel, then proof by measured power.

Not a certified safety function: it complements the hardware stop and the battery's own protection and
never replaces them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

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
    # One connection for each address: many gateways have room for no more.
    clients = {
        key: StrictClient(*key, options.response_timeout_s, options.connect_timeout_s, min_gap_s=gap)
        for key, gap in gaps.items()
    }
    runs = [DeviceStop(target, options, clients, started) for target in targets]

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
