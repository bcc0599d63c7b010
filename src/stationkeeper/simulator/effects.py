"""What faults do to a simulated device's reads and writes. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from stationkeeper.simulator.device import SimulatedDevice
from stationkeeper.simulator.faults import Fault
from stationkeeper.simulator.protocol import Write


def take_write(device: SimulatedDevice, write: Write, fault: Fault | None) -> tuple[int, ...]:
    """Let a device take a write in the way of its fault, and return the words that the request means.

    Raises `DeviceException` as the device does.
    """
    table, address, words = write.table, write.address, write.words
    if write.masks is not None:
        and_mask, or_mask = write.masks
        current = device.held(table, address, 1)[0]
        words = ((current & and_mask) | (or_mask & ~and_mask & 0xFFFF),)
    if fault is None:
        device.write(table, address, words)
    else:
        _take_badly(device, write, words, fault)
    return words


def _take_badly(device: SimulatedDevice, write: Write, words: Sequence[int], fault: Fault) -> None:
    changes = device.changes(write.table, write.address, words)
    if fault.kind == "torn_write":
        held = device.held(write.table, write.address, len(words))
        torn = _torn(held, words, fault.half or "first")
        # Not checked: a device that tears a value has never seen the whole of it.
        changes = device.changes(write.table, write.address, torn, check=False)
    if fault.kind == "clamp":
        limit = abs(fault.value or 0)
        command = device.command_point
        changes = [
            (name, min(limit, max(-limit, value)) if name == command else value) for name, value in changes
        ]
    if fault.kind == "slow_apply":
        device.apply_later(fault.seconds or 0, changes)
    elif fault.kind != "ignore":
        device.apply(changes)


def _torn(old: Sequence[int], new: Sequence[int], half: str) -> list[int]:
    middle = (len(new) + 1) // 2 if half == "first" else len(new) // 2
    return [*new[:middle], *old[middle:]] if half == "first" else [*old[:middle], *new[middle:]]
