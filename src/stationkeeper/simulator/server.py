"""Modbus server for simulated devices: TCP, RTU over TCP and RTU on a serial line, with faults on demand.

An own small server rather than pymodbus's: the wire faults that a fleet must survive (torn, late, short or
foreign answers) happen at the level of frames, which a library rightly does not let one spoil; and
pymodbus's server lets a multi-register write change half of a 32-bit value.
"""

from __future__ import annotations

import contextlib
import struct
from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from stationkeeper.modbus.codec import CodecError
from stationkeeper.simulator.battery import Battery
from stationkeeper.simulator.device import SimulatedDevice
from stationkeeper.simulator.exchange import SECOND_MASTER, Exchange, Reply
from stationkeeper.simulator.faults import ActiveFault, Fault, FaultError, Faults
from stationkeeper.simulator.listeners import Listeners
from stationkeeper.simulator.protocol import WRITE_FUNCTIONS
from stationkeeper.simulator.served_log import ServedLog

_BATTERY_FAULTS = ("second_master", "soe_limit", "temperature")
_RECENT = 1000


class SimulatorServer:
    """Serves devices by unit id; every request is logged with its answer.

    `faults` may be set and cleared at any time, from any thread.
    """

    def __init__(self, devices: Mapping[int, SimulatedDevice], log: ServedLog | None = None) -> None:
        self.devices = devices
        self.faults = Faults(self._check, self._changed)
        self._log = log
        self._recent: deque[dict[str, Any]] = deque(maxlen=_RECENT)
        self._writes: Counter[int] = Counter()
        # Seconds since a second master's last write or a reboot's begin, by the fault's number and unit.
        self._elapsed_s: dict[tuple[int, int], float] = {}
        self._stale: bytes | None = None
        self._listeners = Listeners(self.exchange)
        for unit, device in devices.items():
            device.states = partial(self.faults.states, unit)
            device.on_step = partial(self._stepped, unit)

    async def start(self, host: str, port: int, *, rtu: bool = False) -> int:
        """Listen (for RTU frames, if so) and return the port, which the system chooses for 0.

        May be called several times; all serve the same devices. Raises `OSError`.
        """
        return await self._listeners.start(host, port, "rtu_over_tcp" if rtu else "tcp")

    async def start_serial(self) -> str:
        """Serve RTU on a new pseudo-terminal and return its path, which a client opens as a serial line."""
        return await self._listeners.start_serial()

    async def close(self) -> None:
        """Stop listening and close all connections."""
        await self._listeners.close()

    def writes(self, unit: int | None = None) -> int:
        """Return how many write PDUs have arrived, refused ones too, but not the fault second_master's."""
        return sum(self._writes.values()) if unit is None else self._writes[unit]

    def recent(self) -> list[dict[str, Any]]:
        """Return the last 1000 entries of the served log."""
        return list(self._recent)

    def answer(self, client: str, unit: int, pdu: bytes) -> bytes:
        """Return the answer's PDU and log it; `client` is `ip:port`. Empty where there is no answer."""
        return self.exchange(client, unit, pdu).pdu or b""

    def exchange(self, client: str, unit: int, pdu: bytes) -> Reply:
        """Take a request, log it, and return what becomes of it. Any bytes are taken."""
        done = Exchange(self.devices, self.faults, client, unit, pdu)
        self._go_stale(done)
        if pdu[0] in WRITE_FUNCTIONS and client != SECOND_MASTER:
            self._writes[unit] += 1
        self._recent.append({"at": datetime.now(UTC).isoformat(timespec="microseconds"), **done.entry})
        if self._log is not None:
            self._log.append(done.entry)
        return done.reply

    def _go_stale(self, done: Exchange) -> None:
        """Give a request the answer that an earlier one should have had, and keep its own, by the fault."""
        own, stale = done.reply.pdu, self._stale
        keeps = done.reply.fault is not None and done.reply.fault.kind == "stale_answer"
        if own is None or (stale is None and not keeps):
            return
        self._stale = own if keeps else None
        done.answer_instead(stale)

    def _check(self, fault: Fault) -> None:
        if fault.unit is not None and fault.unit not in self.devices:
            units = ", ".join(map(str, self.devices))
            raise FaultError(f"fault {fault.kind}: no unit {fault.unit} here; units are {units}")
        devices = [device for unit, device in self.devices.items() if fault.unit in (None, unit)]
        for device in devices:
            if fault.point is not None and fault.point not in device.profile.points:
                points = ", ".join(device.profile.points)
                raise FaultError(
                    f"fault {fault.kind}: {device.name} has no point {fault.point!r}; points are {points}"
                )
        if fault.kind in _BATTERY_FAULTS and not any(isinstance(d.source, Battery) for d in devices):
            raise FaultError(f"fault {fault.kind} is for batteries, and unit {fault.unit} is none")

    def _changed(self, active: ActiveFault | None) -> None:
        self._listeners.on_loop(partial(self._apply, active))

    def _apply(self, active: ActiveFault | None) -> None:
        kinds = {entry.fault.kind: entry.fault for entry in self.faults.active()}
        limit = kinds.get("connection_limit")
        self._listeners.restrict(
            limit=None if limit is None else int(1 if limit.value is None else limit.value),
            refuse="refuse_connections" in kinds,
        )
        if active is None:
            self._stale = None
        if active is not None and active.fault.kind == "reboot":
            for unit, device in self.devices.items():
                if active.fault.unit in (None, unit):
                    device.reboot()
            self._listeners.drop_connections()
            if not active.fault.seconds:
                self.faults.clear(number=active.number)

    def _stepped(self, unit: int, dt_s: float) -> None:
        device = self.devices[unit]
        low, high, temperature_c = 0.0, 100.0, None
        for active in self.faults.active():
            fault = active.fault
            if fault.unit not in (None, unit):
                continue
            if fault.kind == "second_master" and isinstance(device.source, Battery):
                self._write_as_second_master(unit, device, active, dt_s)
            elif fault.kind == "reboot" and self._elapsed(active, unit, dt_s) >= (fault.seconds or 0):
                self.faults.clear(number=active.number)
            elif fault.kind == "soe_limit":
                low, high = fault.low or 0.0, 100.0 if fault.high is None else fault.high
            elif fault.kind == "temperature":
                temperature_c = fault.value
        if isinstance(device.source, Battery):
            device.source.soe_limits_percent = (low, high)
            device.source.held_temperature_c = temperature_c

    def _write_as_second_master(
        self, unit: int, device: SimulatedDevice, active: ActiveFault, dt_s: float
    ) -> None:
        key = (active.number, unit)
        period_s = 1.0 if active.fault.seconds is None else active.fault.seconds
        if key in self._elapsed_s and self._elapsed(active, unit, dt_s) < period_s:
            return
        self._elapsed_s[key] = 0.0
        # A master that cannot say its power (a scale factor that is missing) writes nothing.
        with contextlib.suppress(CodecError):
            self._write_all(unit, device.set_power(active.fault.value or 0))

    def _write_all(self, unit: int, writes: list[tuple[int, list[int]]]) -> None:
        for address, words in writes:
            pdu = (
                struct.pack(">BHH", 6, address, *words)
                if len(words) == 1
                else struct.pack(f">BHHB{len(words)}H", 16, address, len(words), 2 * len(words), *words)
            )
            self.exchange(SECOND_MASTER, unit, pdu)

    def _elapsed(self, active: ActiveFault, unit: int, dt_s: float) -> float:
        key = (active.number, unit)
        self._elapsed_s[key] = self._elapsed_s.get(key, 0.0) + dt_s
        return self._elapsed_s[key]
