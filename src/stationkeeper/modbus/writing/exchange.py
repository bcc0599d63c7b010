"""One request to a device that may be busy: what each Modbus exception means for the next step."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from stationkeeper.modbus.errors import DeviceExceptionError
from stationkeeper.modbus.writing.clock import Clock

T = TypeVar("T")

ACKNOWLEDGED, BUSY, MEMORY_PARITY, TARGET_SILENT = 5, 6, 8, 11
# What may be sent once more at once. A silent target may have executed a write, so only reads are.
READ_AGAIN = frozenset({MEMORY_PARITY, TARGET_SILENT})
WRITE_AGAIN = frozenset({MEMORY_PARITY})
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 2.0

_ADVICE = {
    1: "the device does not know this function; set another `function`, or correct the profile",
    2: "no such register; correct the address (it counts from 0) or the profile",
    3: "the device does not take this value; ask within its limits",
    4: "clear the device's fault, or take it out of local mode",
    6: "raise busy_timeout_s, or find out what keeps the device busy",
    8: "the device reports a memory fault; have it looked at",
    10: "configuration error: correct the unit, or the gateway's table of units and ports",
    11: "the gateway is online and the unit behind it is offline; check its power, bus cable and unit number",
}


async def patiently(
    send: Callable[[], Awaitable[T]], clock: Clock, busy_timeout_s: float, *, again: frozenset[int]
) -> T:
    """Send a request until it is answered by something else than busy, for at most `busy_timeout_s`.

    `again` are the exceptions upon which the request may be sent once more. A refused request has done
    nothing, so this repeats no effect. Raises `ModbusError`; its message says what to do.
    """
    deadline = clock.now() + busy_timeout_s
    pause = _FIRST_PAUSE_S
    repeated: set[int] = set()
    while True:
        try:
            return await send()
        except DeviceExceptionError as error:
            if error.code == BUSY and clock.now() + pause <= deadline:
                await clock.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            elif error.code in again and error.code not in repeated:
                repeated.add(error.code)
            else:
                raise _advised(error) from error


def _advised(error: DeviceExceptionError) -> DeviceExceptionError:
    if error.code in _ADVICE:
        error.message = f"{error.message}; {_ADVICE[error.code]}"
    return error
