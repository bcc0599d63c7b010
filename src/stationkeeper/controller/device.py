"""One device in operation: its samples, and for a battery the set-point with its proof."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from dataclasses import dataclass

from stationkeeper.controller.automatic import AutomaticSafeMode, Ramp, ZeroProof, identity_problem, zero_kw
from stationkeeper.controller.clock import Clock
from stationkeeper.controller.metrics import Metrics
from stationkeeper.controller.schema import Battery, Meter
from stationkeeper.controller.store import Sample
from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.errors import DeviceExceptionError, ModbusError
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.profiles.access import read_points, read_sample, run_recipe, write_point
from stationkeeper.profiles.schema import Profile

LOG = logging.getLogger("stationkeeper.controller.device")
READ_BACK_EVERY_S = 0.2
# On top of the profile's latency: the device's own cycle and one more exchange.
READ_BACK_MARGIN_S = 1.0
IDENTITY_EVERY_S = 600.0
# Illegal function, address or value.
NOT_THERE = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Measurement:
    """The last answer: values, when on the monotonic clock, and since when the heartbeat is what it is."""

    values: dict[str, int | float | None]
    monotonic_s: float
    heartbeat_s: float


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
        clock: Clock,
        failures_limit: int = 3,
    ) -> None:
        """``boot_id`` is this run of the controller; see `AutomaticSafeMode` for ``failures_limit``."""
        self.config = config
        self.profile = profile
        self.client = client
        self.latest: Measurement | None = None
        self.seq = 0
        rating_kw = config.rating_kw if isinstance(config, Battery) else profile.rating_kw
        self.automatic = AutomaticSafeMode(failures_limit)
        self.zero = ZeroProof(zero_kw(profile, rating_kw))
        # A device whose registers wear is not written more often while it ramps.
        self.ramp = Ramp(max(Ramp.STEP_S, profile.min_write_interval_s))
        self.local = False
        # What a hold leaves behind: a set-point not to be replayed, maintenance that is still to be left,
        # and the word that only a stop may write.
        self.spent: str | None = None
        self.maintained = False
        self.blocked = False
        # What the last look at the identity registers found; not looked yet is a problem, too.
        self.identity: str | None = "the identity was not read yet"
        self.identity_due_s = -math.inf
        self._metrics = metrics
        self._boot_id = boot_id
        self._clock = clock
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
        """Take over what is known of the same device under an earlier configuration.

        Another address or profile means another device to be proven; only the sequence and the ramp go on.
        """
        self.seq = before.seq
        self.ramp.power_kw = before.ramp.power_kw
        self.spent, self.maintained = before.spent, before.maintained
        if (before.config.modbus, before.profile) != (self.config.modbus, self.profile):
            return
        self.latest = before.latest
        before.automatic.failures_limit = self.automatic.failures_limit
        self.automatic, self.zero, self.blocked = before.automatic, before.zero, before.blocked
        self.identity, self.identity_due_s, self.local = before.identity, before.identity_due_s, before.local

    async def sample(self) -> Sample | None:
        """Read one sample with one request; None when the device did not answer."""
        try:
            values = await read_sample(self.client, self.unit, self.profile)
            self.local = await self._is_local(values)
        except ModbusError as error:
            self._trouble("sample", error.outcome, error.message)
            # Whoever answers next may be another device.
            self.identity_due_s = -math.inf
            return None
        stamp = self._clock.stamp()
        self.latest = self._measurement(values, stamp.monotonic_us / 1e6)
        self.seq += 1
        self._well("sample")
        self._metrics.sample(
            self.name,
            self.profile.device_type,
            power_kw=values.get(self.profile.measured_power),
            soe_percent=values.get("soe_percent"),
            at_s=stamp.wall_us / 1e6,
        )
        return Sample(
            self.profile.device_type,
            str(self.config.id),
            self._boot_id,
            self.seq,
            stamp.wall_us,
            stamp.quality,
            dict(values),
            stamp.monotonic_us,
            stamp.host_boot,
        )

    async def _is_local(self, values: dict[str, int | float | None]) -> bool:
        """Tell whether somebody controls the device at its place; what it does not tell counts as local."""
        expected = self.profile.local_mode
        if expected is None:
            return False
        point = expected.point
        if point not in values:
            values = await read_points(self.client, self.unit, self.profile, [point])
        return values[point] is None or values[point] == expected.equals

    def _measurement(self, values: dict[str, int | float | None], now_s: float) -> Measurement:
        before, beat = self.latest, values.get(self.profile.heartbeat)
        moved = before is None or before.values.get(self.profile.heartbeat) != beat
        return Measurement(values, now_s, now_s if moved or before is None else before.heartbeat_s)

    async def check_identity(self) -> None:
        """Read the identity registers when they are due: at first, after silence, and now and then."""
        now_s = time.monotonic()
        if now_s < self.identity_due_s:
            return
        names = [expected.point for expected in self.profile.identity]
        try:
            values = await read_points(self.client, self.unit, self.profile, names)
        except ModbusError as error:
            self._trouble("identity", error.outcome, error.message)
            # A device that answers and does not know these registers is another one.
            if isinstance(error, DeviceExceptionError) and error.code in NOT_THERE:
                self.identity = f"the identity registers are refused: {error.message}"
            return
        self._well("identity")
        self.identity = identity_problem(self.profile, values)
        if self.identity is None:
            self.identity_due_s = now_s + IDENTITY_EVERY_S

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

    async def check(self, power_kw: float) -> Outcome:
        """Only read whether a set-point is in force; nothing is written."""
        return await self._read_back(power_kw, Outcome.CONTENDED)

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
