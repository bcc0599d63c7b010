"""One device in operation: its samples, and for a battery the set-point with its proof."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from stationkeeper.controller.clock import time_quality
from stationkeeper.controller.metrics import Metrics
from stationkeeper.controller.schema import Battery, Meter
from stationkeeper.controller.store import Sample
from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.errors import ModbusError
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.profiles.access import read_points, read_sample, run_recipe, write_point
from stationkeeper.profiles.schema import Profile

LOG = logging.getLogger("stationkeeper.controller.device")
READ_BACK_EVERY_S = 0.2
# On top of the profile's latency: the device's own cycle and one more exchange.
READ_BACK_MARGIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Measurement:
    """The last answer: values, and when on the monotonic clock."""

    values: dict[str, int | float | None]
    monotonic_s: float


class Device:
    """A device of the station. Its methods never raise for what the device or the network does."""

    def __init__(
        self,
        config: Battery | Meter,
        profile: Profile,
        client: StrictClient,
        metrics: Metrics,
        *,
        boot_id: str,
    ) -> None:
        self.config = config
        self.profile = profile
        self.client = client
        self.latest: Measurement | None = None
        self.seq = 0
        self._metrics = metrics
        self._boot_id = boot_id
        # Any start differs from the last value before a restart, almost surely.
        self._heartbeat = time.time_ns() & 0xFFFF
        self._complaints: dict[str, Outcome] = {}

    @property
    def name(self) -> str:
        """The device's name."""
        return self.config.name

    @property
    def unit(self) -> int:
        """The device's Modbus unit."""
        return self.config.modbus.unit

    def continue_from(self, before: Device) -> None:
        """Take over the sequence and the last answer of the same device under an earlier configuration."""
        self.seq = before.seq
        self.latest = before.latest

    async def sample(self) -> Sample | None:
        """Read one sample with one request; None when the device did not answer."""
        try:
            values = await read_sample(self.client, self.unit, self.profile)
        except ModbusError as error:
            self._trouble("sample", error.outcome, error.message)
            return None
        wall_us = time.time_ns() // 1000
        self.latest = Measurement(values, time.monotonic())
        self.seq += 1
        self._well("sample")
        self._metrics.sample(
            self.name,
            self.profile.device_type,
            power_kw=values.get(self.profile.measured_power),
            soe_percent=values.get("soe_percent"),
            at_s=wall_us / 1e6,
        )
        return Sample(
            self.profile.device_type,
            str(self.config.id),
            self._boot_id,
            self.seq,
            wall_us,
            time_quality(),
            dict(values),
        )

    async def command(self, power_kw: float) -> Outcome:
        """Write a set-point and read it back; only `verified` proves it."""
        self._metrics.setpoint(self.name, power_kw)
        outcome = Outcome.ACCEPTED_UNVERIFIED
        try:
            if power_kw == 0:
                await run_recipe(self.client, self.unit, self.profile, "zero_power")
            else:
                await run_recipe(self.client, self.unit, self.profile, "set_power", power_kw=power_kw)
        except ModbusError as error:
            self._trouble("set-point", error.outcome, error.message)
            # After silence the device may have applied it: only reading tells.
            if error.outcome is not Outcome.UNKNOWN:
                return error.outcome
            outcome = error.outcome
        return await self._read_back(power_kw, outcome)

    async def _read_back(self, power_kw: float, unproven: Outcome) -> Outcome:
        verify = self.profile.verify
        if verify is None:
            return unproven
        # A set-point is rounded to the nearest step of its register.
        tolerance = float(verify.tolerance) + float(abs(self.profile.points[verify.point].scale)) / 2 + 1e-9
        end = time.monotonic() + self.profile.apply_latency_s + READ_BACK_MARGIN_S
        while True:
            try:
                read = await read_points(self.client, self.unit, self.profile, [verify.point])
            except ModbusError as error:
                self._trouble("set-point", error.outcome, error.message)
                return unproven
            value = read[verify.point]
            if value is not None and abs(value - power_kw) <= tolerance:
                self._well("set-point")
                return Outcome.VERIFIED
            if time.monotonic() >= end:
                message = f"commanded {power_kw:g} kW, the device says {value} kW ({verify.point})"
                self._trouble("set-point", unproven, message)
                return unproven
            await asyncio.sleep(READ_BACK_EVERY_S)

    async def feed_watchdog(self) -> None:
        """Tell the device that its controller has decided."""
        watchdog = self.profile.watchdog
        if watchdog is None or watchdog.point is None:
            return
        self._heartbeat = (self._heartbeat + 1) & 0xFFFF
        try:
            await write_point(self.client, self.unit, self.profile, watchdog.point, self._heartbeat)
        except ModbusError as error:
            self._trouble("heartbeat", error.outcome, error.message)
        else:
            self._well("heartbeat")

    def _trouble(self, topic: str, outcome: Outcome, message: str) -> None:
        self._metrics.modbus_error(self.name, outcome.value)
        if self._complaints.get(topic) is not outcome:
            LOG.warning("%s: %s: %s: %s", self.name, topic, outcome.value, message)
            self._complaints[topic] = outcome

    def _well(self, topic: str) -> None:
        if self._complaints.pop(topic, None) is not None:
            LOG.info("%s: %s: works again", self.name, topic)
