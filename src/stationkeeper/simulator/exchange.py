"""What becomes of one request: faults, the device, the answer and the entry of the served log. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stationkeeper.simulator import protocol
from stationkeeper.simulator.device import SimulatedDevice
from stationkeeper.simulator.effects import take_write
from stationkeeper.simulator.exceptions import (
    ACKNOWLEDGE,
    BUSY,
    DEVICE_FAILURE,
    TARGET_SILENT,
    DeviceException,
)
from stationkeeper.simulator.fault_kinds import Stage
from stationkeeper.simulator.faults import Fault, Faults

# The fault of this name writes as a client of this name; faults do not hit it.
SECOND_MASTER = "second_master"

_BROADCAST = 0
_SILENT_FAULTS = ("lost_request", "black_hole")
_CODES = {"busy": BUSY, "gateway_silent": TARGET_SILENT, "local_mode": DEVICE_FAILURE}


@dataclass(frozen=True, slots=True)
class Reply:
    """What a request gets: a PDU (None: silence), spoiled on its way by `fault`."""

    pdu: bytes | None
    fault: Fault | None = None


class Exchange:
    """One request; `reply` and `entry` (of the served log, without time) are there when it is built."""

    def __init__(
        self, devices: Mapping[int, SimulatedDevice], faults: Faults, client: str, unit: int, pdu: bytes
    ) -> None:
        self._devices = devices
        self._faults = faults
        self._unit = unit
        self._pdu = pdu
        self._faulty = client != SECOND_MASTER
        self._kinds: list[str] = []
        device = devices.get(unit)
        self.entry: dict[str, Any] = {
            "client": client,
            "unit": unit,
            "device": device.name if device else None,
            "function": pdu[0],
        }
        self.reply = self._reply()
        if self._kinds:
            self.entry["fault"] = ",".join(self._kinds)
        if self.reply.pdu is None or self.reply.fault:
            self._lose_words()

    def answer_instead(self, pdu: bytes | None) -> None:
        """Replace the answer by another request's, or by silence."""
        self.reply = Reply(pdu)
        self.entry["fault"] = "stale_answer"
        self._lose_words()

    def _lose_words(self) -> None:
        # Nobody has received these: what is compared with telemetry must not count them.
        if "words" in self.entry:
            self.entry["lost_words"] = self.entry.pop("words")

    def _reply(self) -> Reply:
        request = None
        try:
            request = protocol.parse(self._pdu)
            self.entry |= request.described()
            refusal = self._take(Stage.REFUSE, request)
            if (refusal and refusal.kind in _SILENT_FAULTS) or self._booting:
                return Reply(None)
            if refusal:
                raise DeviceException(refusal.code or _CODES[refusal.kind])
            if self._unit == _BROADCAST:
                self._broadcast(request)
                return Reply(None)
            answer = self._execute(request)
        except DeviceException as exception:
            # A unit that is not there does not judge requests; its gateway answers.
            code = exception.code if self._unit in self._devices else TARGET_SILENT
            answer = self._exception(code)
        fault = self._take(Stage.ANSWER, request) if request else None
        if fault and fault.kind == "acknowledge":
            self._lose_words()
            return Reply(self._exception(ACKNOWLEDGE))
        return Reply(None if fault and fault.kind == "drop" else answer, fault)

    @property
    def _booting(self) -> bool:
        booting = any(fault.kind == "reboot" for fault in self._faults.states(self._unit))
        if booting:
            self._kinds.append("reboot")
        return booting

    def _take(self, stage: Stage, request: protocol.Request) -> Fault | None:
        fault = self._faults.take(stage, self._unit, request) if self._faulty else None
        if fault:
            self._kinds.append(fault.kind)
        return fault

    def _execute(self, request: protocol.Request) -> bytes:
        device = self._devices.get(self._unit)
        if device is None:
            raise DeviceException(TARGET_SILENT)
        device.source.heard("message")
        if request.write:
            fault = self._take(Stage.WRITE, request)
            self.entry["written"] = list(take_write(device, request.write, fault))
            device.source.heard("write")
        words: list[int] = []
        if request.read:
            words = device.read(request.read.table, request.read.address, request.read.count)
            self.entry["words"] = words
        return protocol.answer(request, self._pdu, words)

    def _broadcast(self, request: protocol.Request) -> None:
        """Let every device take a write; none may answer, so a refusal is known to nobody."""
        if request.write is None:
            return
        for device in self._devices.values():
            device.source.heard("message")
            try:
                self.entry["written"] = list(take_write(device, request.write, None))
            except DeviceException:
                continue
            device.source.heard("write")

    def _exception(self, code: int) -> bytes:
        self.entry["exception"] = code
        return bytes([self._pdu[0] | 0x80, code])
