"""The device under commissioning and its meter on the line: looks, commands, feedings."""

from __future__ import annotations

from stationkeeper.commissioning.types import Clock, Observation
from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.errors import ModbusError
from stationkeeper.profiles import (
    Profile,
    Sample,
    concrete,
    read_points,
    read_sample,
    run_recipe,
    write_point,
)
from stationkeeper.profiles.schema import RecipeName
from stationkeeper.station.devices import Target


class Line:
    """Clients of one battery and, where there is one, of the meter behind it."""

    def __init__(
        self,
        target: Target,
        client: StrictClient,
        clock: Clock,
        meter: Target | None = None,
        meter_client: StrictClient | None = None,
    ) -> None:
        self.target = target
        self.meter = meter
        self.written_at: float | None = None
        self._client = client
        self._meter_client = meter_client
        self._clock = clock
        self._count = 0

    @property
    def profile(self) -> Profile:
        """The battery's profile."""
        return self.target.profile

    async def read(self, names: list[str]) -> Sample:
        """Return some points of the battery."""
        return await read_points(self._client, self.target.unit, self.profile, names)

    async def find(self) -> None:
        """Ask a SunSpec device for its models, so that a wrong one is told at once."""
        await concrete(self._client, self.target.unit, self.profile)

    async def look(self) -> Observation:
        """Return one look at battery and meter. Raises `ModbusError` when the battery does not answer."""
        profile = self.profile
        sample = await read_sample(self._client, self.target.unit, profile)
        at_s = self._clock.now()
        wanted = [profile.verify.point if profile.verify else None, profile.alarm_point]
        sample |= await self.read([name for name in wanted if name is not None and name not in sample])
        return Observation(
            at_s,
            sample[profile.measured_power],
            await self._metered(),
            sample[profile.verify.point] if profile.verify else None,
            sample[profile.heartbeat],
            sample.get("status"),
            sample[profile.alarm_point] if profile.alarm_point else None,
        )

    async def look_at_meter(self) -> Observation:
        """Return a look that sends the battery nothing at all."""
        return Observation(self._clock.now(), meter_kw=await self._metered())

    async def command(self, power_kw: float) -> None:
        """Write a set-point, 0 by the zero_power recipe, and feed the watchdog."""
        if power_kw == 0:
            await self.run("zero_power")
        else:
            self._mark()
            await run_recipe(self._client, self.target.unit, self.profile, "set_power", power_kw=power_kw)
        watchdog = self.profile.watchdog
        if watchdog is not None and watchdog.point is not None:
            self._count = (self._count + 1) & 0xFFFF
            self._mark()
            await write_point(self._client, self.target.unit, self.profile, watchdog.point, self._count)
        self._mark()

    async def run(self, recipe: RecipeName) -> None:
        """Run a recipe without an argument."""
        self._mark()
        await run_recipe(self._client, self.target.unit, self.profile, recipe)

    async def write(self, name: str, value: float) -> None:
        """Write one point."""
        self._mark()
        await write_point(self._client, self.target.unit, self.profile, name, value)

    def _mark(self) -> None:
        # Before the write too: one that fails half-way may have arrived.
        self.written_at = self._clock.now()

    async def _metered(self) -> float | None:
        if self.meter is None or self._meter_client is None:
            return None
        try:
            sample = await read_sample(self._meter_client, self.meter.unit, self.meter.profile)
        except ModbusError:
            return None
        return sample[self.meter.profile.measured_power]
