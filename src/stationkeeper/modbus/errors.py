"""The only errors that a Modbus exchange raises; each carries the outcome that a write would have."""

from __future__ import annotations

from stationkeeper.modbus.outcome import Outcome

EXCEPTION_NAMES = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "device failure or local mode",
    5: "acknowledge, still processing",
    6: "device busy",
    8: "memory parity error",
    10: "gateway path unavailable",
    11: "gateway target silent: the unit is offline behind a live gateway",
}


class ModbusError(Exception):
    """An exchange that did not succeed; `outcome` is what a write has to report."""

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.message = message


class RequestError(ModbusError):
    """A request that is wrong in itself, refused before a socket is opened."""

    def __init__(self, message: str) -> None:
        super().__init__(Outcome.REJECTED, message)


class ConnectionFailedError(ModbusError):
    """No TCP connection: the request has not left."""

    def __init__(self, message: str) -> None:
        super().__init__(Outcome.UNREACHABLE, message)


class NoAnswerError(ModbusError):
    """Silence or a closed connection after the request has left.

    A write is `unknown`, because the device may have applied it; a read is `unreachable`.
    """

    def __init__(self, message: str, *, writing: bool) -> None:
        super().__init__(Outcome.UNKNOWN if writing else Outcome.UNREACHABLE, message)


class AnswerMismatchError(ModbusError):
    """An answer that does not belong to the request: transaction, unit, function, length or echo differ."""

    def __init__(self, message: str) -> None:
        super().__init__(Outcome.UNKNOWN, message)


class DeviceExceptionError(ModbusError):
    """The device (or a gateway) answered with a Modbus exception; `code` is its number."""

    def __init__(self, code: int, message: str, *, writing: bool) -> None:
        if code == 5:
            outcome = Outcome.ACCEPTED_UNVERIFIED
        elif code == 10:
            outcome = Outcome.UNREACHABLE
        elif code == 11:
            # The gateway has passed the request on and heard nothing: the same doubt as a time-out.
            outcome = Outcome.UNKNOWN if writing else Outcome.UNREACHABLE
        else:
            outcome = Outcome.REJECTED
        super().__init__(outcome, f"{message}: exception {code} ({EXCEPTION_NAMES.get(code, 'unnamed')})")
        self.code = code


class EndpointBusyError(ModbusError):
    """Another run holds the endpoint's lock; nothing was sent."""

    def __init__(self, message: str) -> None:
        super().__init__(Outcome.BLOCKED_BY_INTERLOCK, message)
