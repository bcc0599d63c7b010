"""A new device on its bus before anybody relies on it: it answers, and it is what its profile says.

Reads only. One connection for each gateway, one request at a time on it, whatever the number of its units:
some gateways have a single session, and a batch of a hundred devices must not take it from the controller
for longer than needed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.errors import ModbusError
from stationkeeper.profiles import Sample, read_points, read_sample
from stationkeeper.station.devices import Pace, Seen, Target


async def look_at_new(targets: Sequence[Target], pace: Pace) -> dict[str, Seen]:
    """Read identity and ``pace.samples`` samples of every device; gateways at the same time."""
    gateways: dict[tuple[str, int], list[Target]] = {}
    for target in targets:
        gateways.setdefault((target.host, target.port), []).append(target)
    found = await asyncio.gather(*(_gateway(own, pace) for own in gateways.values()))
    return {name: seen for part in found for name, seen in part.items()}


async def _gateway(targets: Sequence[Target], pace: Pace) -> dict[str, Seen]:
    first = targets[0]
    gap_s = max(target.profile.min_request_gap_ms for target in targets) / 1000
    client = StrictClient(first.host, first.port, pace.timeout_s, pace.timeout_s, min_gap_s=gap_s)
    identity: dict[str, Sample] = {}
    samples: dict[str, list[Sample]] = {target.name: [] for target in targets}
    errors: dict[str, str] = {}
    try:
        for number in range(pace.samples):
            if number:
                await asyncio.sleep(pace.interval_s)
            for target in targets:
                if target.name in errors:
                    continue
                try:
                    if target.name not in identity:
                        points = [expected.point for expected in target.profile.identity]
                        identity[target.name] = await read_points(client, target.unit, target.profile, points)
                    samples[target.name].append(await read_sample(client, target.unit, target.profile))
                except ModbusError as error:
                    errors[target.name] = error.message
    finally:
        await client.close()
    return {
        target.name: Seen(error=errors[target.name])
        if target.name in errors
        else Seen(tuple(samples[target.name]), identity[target.name])
        for target in targets
    }
