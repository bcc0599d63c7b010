"""The three ways to a device: Modbus TCP, RTU frames over TCP, and RTU on a serial line."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from pymodbus.client import AsyncModbusSerialClient, AsyncModbusTcpClient
from pymodbus.framer import FramerType

from stationkeeper.modbus import frames
from stationkeeper.modbus.errors import RequestError

# pymodbus logs each time-out and mismatch, with frames, at error level; the client raises all of them
# as ModbusError, so a silent device would fill the journal with what its caller reports already.
logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL + 1)

# After a broadcast nobody answers; the specification gives the devices 100 to 200 ms to act on it.
BROADCAST_TURNAROUND_S = 0.1


class Transport(StrEnum):
    """How frames reach the device."""

    TCP = "tcp"
    RTU_OVER_TCP = "rtu_over_tcp"
    SERIAL = "serial"


@dataclass(frozen=True, slots=True)
class SerialSettings:
    """A serial line: bits per second, parity N, E or O, stop bits 1 or 2.

    `local_echo` is for a two-wire adapter that gives back what it sends: the echo is swallowed and must
    equal the request. A line that echoes and is not declared so would seem to confirm single writes.
    Raises `RequestError` for settings that no line has.
    """

    baudrate: int = 19200
    parity: Literal["N", "E", "O"] = "E"
    stopbits: int = 1
    local_echo: bool = False

    def __post_init__(self) -> None:
        if self.baudrate <= 0:
            raise RequestError(f"baudrate is a positive number of bits per second, not {self.baudrate}")
        if self.parity not in ("N", "E", "O"):
            raise RequestError(f"parity is N, E or O, not {self.parity!r}")
        if self.stopbits not in (1, 2):
            raise RequestError(f"stop bits are 1 or 2, not {self.stopbits}")

    @property
    def character_s(self) -> float:
        """Time that one byte takes: start bit, 8 data bits, parity and stop bits, in seconds."""
        return (9 + (self.parity != "N") + self.stopbits) / self.baudrate

    @property
    def silence_s(self) -> float:
        """Silence that separates two RTU frames: 3.5 characters, 1.75 ms above 19200 baud, in seconds."""
        return 0.00175 if self.baudrate > 19200 else 3.5 * self.character_s


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One gateway, device or serial line. `line` is None for Modbus TCP and set for both RTU forms."""

    host: str
    port: int
    line: SerialSettings | None
    transport: Transport

    @classmethod
    def of(cls, host: str, port: int, transport: Transport | str, line: SerialSettings | None) -> Endpoint:
        """Check and complete a caller's settings; raises `RequestError`."""
        try:
            kind = Transport(transport)
        except ValueError:
            raise RequestError(f"transport is one of {', '.join(Transport)}, not {transport!r}") from None
        if kind is Transport.TCP:
            if line is not None:
                raise RequestError("serial settings are for transport rtu_over_tcp or serial, not tcp")
            return cls(host, port, None, kind)
        return cls(host, port, line or SerialSettings(), kind)

    def __str__(self) -> str:
        return self.host if self.transport is Transport.SERIAL else f"{self.host}:{self.port}"

    @property
    def check(self) -> frames.AnswerCheck:
        """The check that an answer from here must pass."""
        if self.line is None:
            return frames.answer_pdu
        return frames.echoed_rtu_answer_pdu if self.line.local_echo else frames.rtu_answer_pdu

    def check_unit(self, unit: int) -> None:
        """Raise `RequestError` for a unit that cannot answer here."""
        if 1 <= unit <= 247 or (unit == 255 and self.transport is Transport.TCP):
            return
        raise RequestError(
            f"unit {unit} is not 1 to 247 (or 255 for a direct TCP device); 0 is broadcast and only for a "
            "write that says so"
        )

    def pymodbus_client(
        self,
        timeout_s: float,
        on_packet: Callable[[bool, bytes], bytes],
        on_connect: Callable[[bool], None],
    ) -> Any:
        """Return a pymodbus client that retries nothing and does not reconnect by itself."""
        options: dict[str, Any] = {
            "retries": 0,
            "reconnect_delay": 0,
            "timeout": timeout_s,
            "trace_packet": on_packet,
            "trace_connect": on_connect,
        }
        if self.line is None or self.transport is Transport.RTU_OVER_TCP:
            framer = FramerType.SOCKET if self.line is None else FramerType.RTU
            return AsyncModbusTcpClient(self.host, port=self.port, framer=framer, **options)
        try:
            return AsyncModbusSerialClient(
                self.host,
                framer=FramerType.RTU,
                baudrate=self.line.baudrate,
                parity=self.line.parity,
                stopbits=self.line.stopbits,
                **options,
            )
        except RuntimeError as error:
            raise RequestError(f"{self.host}: {error}") from None

    @property
    def no_connection(self) -> str:
        """What to say when it does not open."""
        if self.transport is Transport.SERIAL:
            return (
                f"{self} does not open: no such device, no permission (group dialout), or another master "
                "holds it"
            )
        return f"{self} refuses or is not reachable (another master may hold its only session)"


def check_gateway_timing(timeout_s: float, gateway_timeout_s: float, gateway_retries: int) -> None:
    """Raise `RequestError` unless a client waits longer than its gateway tries.

    `timeout_s` is the client's response time-out, `gateway_timeout_s` the gateway's on its serial side,
    `gateway_retries` how often it asks again after the first time. A client that gives up earlier takes
    the answer to one request for a time-out, and the late answer arrives during the next.
    """
    longest_s = gateway_timeout_s * (1 + gateway_retries)
    if timeout_s <= longest_s:
        raise RequestError(
            f"response time-out of {timeout_s:g} s is too short: the gateway asks {1 + gateway_retries} "
            f"times for {gateway_timeout_s:g} s, so set more than {longest_s:g} s here, or less there"
        )
