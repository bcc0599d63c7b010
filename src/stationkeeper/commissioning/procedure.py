"""The procedure: look, prove zero, prove the sign, pull the plug; and always end at zero, verified."""

from __future__ import annotations

import asyncio
import math
from datetime import date

from stationkeeper.commissioning.judge import (
    band_kw,
    find_fallback,
    judge_alarms,
    judge_fallback,
    judge_freshness,
    judge_identity,
    judge_noise,
    judge_quiet,
    judge_sign,
    judge_state,
    latest_s,
    reads_back,
)
from stationkeeper.commissioning.line import Line
from stationkeeper.commissioning.types import Check, Clock, Observation, Options, Report
from stationkeeper.modbus.errors import ModbusError
from stationkeeper.profiles.schema import RecipeName, Watchdog

# Within one time-out the device is fed this often, as by the station's controller.
_FEEDS = 3
# After the power has left the set-point: time to see where it goes.
_SETTLE_S = 10.0
_SILENT_LOOK_S = 0.5


async def commission(line: Line, options: Options, clock: Clock, *, today: date, dry_run: bool) -> Report:
    """Commission one battery and return what was found; a dry run reads only.

    Never raises for what the device or the network does. Whatever happens after the first write, a
    cancellation too, the device is brought to zero and that is verified. Raises `OptionsError` before
    anything is sent.
    """
    target = line.target
    report = Report(target.name, f"{target.host}:{target.port} unit {target.unit}", options.power_for(target))
    procedure = _Procedure(line, options, clock, report)
    if not await procedure.look_only():
        return report
    if dry_run:
        procedure.plan()
        return report
    try:
        await procedure.measure(today)
    except ModbusError as error:
        report.checks.append(Check("connection", False, error.message))
    except asyncio.CancelledError:
        # Ended all the same, at zero and with a report: that is what the caller wants to know now.
        report.checks.append(Check("interrupted", False, "interrupted before the end"))
    finally:
        report.written = True
        ending = asyncio.ensure_future(procedure.end())
        try:
            await asyncio.shield(ending)
        except asyncio.CancelledError:
            # Interrupted while it ends: ending is what the interruption wants.
            await ending
    return report


class _Procedure:
    def __init__(self, line: Line, options: Options, clock: Clock, report: Report) -> None:
        self._line = line
        self._options = options
        self._clock = clock
        self._report = report
        self._profile = line.profile
        self._metered = line.meter is not None
        self._commanded: float | None = None

    async def look_only(self) -> bool:
        """Do all that needs no write; True when nothing speaks against going on."""
        line, profile = self._line, self._profile
        try:
            await line.find()
            identity = await line.read([expected.point for expected in profile.identity])
            self._add(judge_identity(profile, identity))
            local = profile.local_mode.point if profile.local_mode else None
            soe = "soe_percent" if "soe_percent" in profile.points else None
            state = await line.read([name for name in (local, soe) if name])
            self._add(judge_state(profile, state.get(local or ""), state.get(soe or "")))
            seen, commands = [], []
            pause_s = self._quiet_pause_s()
            for number in range(self._options.samples):
                if number:
                    await self._clock.sleep(pause_s)
                seen.append(await line.look())
                commands.append(await line.read(self._written_points()))
            self._report.before = _shown(seen[0])
            self._add(judge_freshness(seen))
            self._add(judge_quiet(commands))
        except ModbusError as error:
            self._add(Check("connection", False, error.message))
        return self._report.passed

    def plan(self) -> None:
        """Say what would be written."""
        power_kw, watchdog = self._report.power_kw, self._profile.watchdog
        planned: list[str] = [
            recipe for recipe in ("release", "zero_power") if recipe in self._profile.recipes
        ]
        planned.append(f"set_power {power_kw:+g} kW")
        if watchdog and self._options.measure_watchdog:
            planned.append(f"silence for up to {self._options.silence_for(watchdog.timeout_s):g} s")
        self._report.planned = [*planned, *self._last_recipes()]

    async def measure(self, today: date) -> None:
        """Write: zero, the sign at low power, the watchdog. Stops at the first check that fails."""
        target, power_kw = self._line.target, self._report.power_kw
        if "release" in self._profile.recipes:
            # Nobody has fed it so far: it may have tripped, or stand where an earlier run stopped it.
            await self._line.run("release")
        look = await self._hold(0.0)
        if not self._add(judge_sign(target, 0.0, look, metered=self._metered)):
            return
        seen = [look, *[await self._driven(0.0) for _ in range(self._options.samples)]]
        if not (self._add(judge_noise(target, seen)) and self._add(judge_alarms(self._profile, seen[-1]))):
            return
        look = await self._hold(power_kw)
        if not self._add(judge_sign(target, power_kw, look, metered=self._metered)):
            return
        watchdog = self._profile.watchdog
        if watchdog is not None and self._options.measure_watchdog:
            await self._pull_the_plug(watchdog, today)

    async def end(self) -> None:
        """Bring the device to zero and prove it, by its own stop where zero alone does not do or last."""
        recipes = self._last_recipes()
        look = await self._try_zero(recipes)
        if look is None and "stop" in self._profile.recipes and "stop" not in recipes:
            look = await self._try_zero([*recipes, "stop"])
        self._report.left_at_zero = look is not None
        self._report.after = _shown(look) if look else {}
        message = "left at 0 kW, measured and read back"
        if look is None:
            message = "NOT PROVEN to be at 0 kW: stop it at the device, or run edge_emergency_stop"
        self._add(Check("end", look is not None, message))

    # --- steps

    async def _pull_the_plug(self, watchdog: Watchdog, today: date) -> None:
        line, target, power_kw = self._line, self._line.target, self._report.power_kw
        await self._arm(watchdog)
        for _ in range(_FEEDS):
            await self._driven(power_kw)
        if watchdog.remaining_point is not None:
            left_s = (await line.read([watchdog.remaining_point]))[watchdog.remaining_point]
            armed = bool(left_s)
            message = (
                f"{watchdog.remaining_point} is {left_s}: the dead-man is {'' if armed else 'not '}armed"
            )
            if not self._add(Check("armed", armed, message, {"remaining_s": left_s})):
                return
        await line.command(power_kw)
        fed_at = line.written_at or self._clock.now()
        # A device that any message feeds must not even be read.
        by_meter = watchdog.fed_by == "any_message"
        limit_s = self._options.silence_for(watchdog.timeout_s)
        if by_meter and not self._metered:
            await self._clock.sleep(min(limit_s, latest_s(self._profile, watchdog)) - _SILENT_LOOK_S)
            # One look tells where it went, though not when: the look itself wakes the device.
            last = await line.look()
            seen = [Observation(last.at_s, meter_kw=last.power_kw)]
        else:
            seen = await self._watch(fed_at, limit_s, by_meter=by_meter)
        found = find_fallback(target, power_kw, seen, fed_at, by_meter=by_meter)
        waited_s = self._clock.now() - fed_at
        passed = self._add(judge_fallback(self._profile, watchdog, found, waited_s))
        if passed and found.reached_after_s is not None:
            # Rounded up: nobody should expect the fall-back before it came.
            measured_s = math.ceil(found.reached_after_s * 10) / 10
            self._report.proposal = {"measured_fallback_s": measured_s, "measured_on": today.isoformat()}

    async def _arm(self, watchdog: Watchdog) -> None:
        """Set the profile's time-out where the set-point does not set it itself."""
        point = watchdog.timeout_point
        if point is None or any(step.point == point for step in self._profile.recipes["set_power"]):
            return
        known = None
        if point not in self._profile.write_only:
            known = (await self._line.read([point]))[point]
        if known != watchdog.timeout_s:
            await self._line.write(point, watchdog.timeout_s)

    async def _watch(self, fed_at: float, limit_s: float, *, by_meter: bool) -> list[Observation]:
        """Look without a write until the power has gone somewhere and settled, or the limit has come."""
        line, seen = self._line, list[Observation]()
        end = fed_at + limit_s
        while self._clock.now() < end:
            await self._clock.sleep(_SILENT_LOOK_S)
            try:
                seen.append(await (line.look_at_meter() if by_meter else line.look()))
            except ModbusError:
                continue
            found = find_fallback(line.target, self._report.power_kw, seen, fed_at, by_meter=by_meter)
            if found.left_after_s is not None:
                end = min(end, fed_at + found.left_after_s + _SETTLE_S)
        return seen

    async def _hold(self, power_kw: float) -> Observation:
        """Command a power until it is measured and read back in `samples` fresh looks, or time is up."""
        good = 0
        end = self._clock.now() + self._profile.apply_latency_s + self._options.window_s
        before: Observation | None = None
        while True:
            look = await self._driven(power_kw)
            fresh = before is None or look.heartbeat != before.heartbeat
            good = good + 1 if fresh and self._follows(power_kw, look) else 0
            if good >= self._options.samples or self._clock.now() >= end:
                return look
            before = look

    def _follows(self, power_kw: float, look: Observation) -> bool:
        band = band_kw(self._line.target, power_kw) if power_kw else self._line.target.zero_kw
        measured = [look.power_kw, *([look.meter_kw] if self._metered else [])]
        near = all(value is not None and abs(value - power_kw) <= band for value in measured)
        return near and reads_back(self._line.target, power_kw, look)

    async def _driven(self, power_kw: float) -> Observation:
        """Command and feed as the controller does, wait a cycle, and look."""
        watchdog = self._profile.watchdog
        cycle_s = self._options.interval_s
        if watchdog is not None:
            cycle_s = min(cycle_s, watchdog.timeout_s / (_FEEDS + 1))
        written_at = self._line.written_at
        rested = written_at is None or self._clock.now() - written_at >= self._profile.min_write_interval_s
        if rested or self._commanded != power_kw:
            await self._line.command(power_kw)
            self._commanded = power_kw
        await self._clock.sleep(cycle_s)
        return await self._line.look()

    async def _try_zero(self, recipes: list[RecipeName]) -> Observation | None:
        """Run recipes until the device proves zero; None when it does not in the window."""
        end = self._clock.now() + self._profile.apply_latency_s + self._options.window_s
        good, before = 0, None
        pending = list(recipes)
        while True:
            try:
                while pending:
                    await self._line.run(pending[0])
                    pending.pop(0)
                await self._clock.sleep(self._options.interval_s)
                look = await self._line.look()
                fresh = before is None or look.heartbeat != before.heartbeat
                good = good + 1 if fresh and self._follows(0.0, look) else 0
                before = look
                if not reads_back(self._line.target, 0.0, look):
                    pending = list(recipes)
            except ModbusError:
                good = 0
                await self._clock.sleep(self._options.interval_s)
            if good >= self._options.samples:
                return before
            if self._clock.now() >= end:
                return None

    def _last_recipes(self) -> list[RecipeName]:
        watchdog = self._profile.watchdog
        if watchdog is not None and watchdog.fallback in ("hold_last", "autonomous"):
            # Nobody feeds it from now on, so zero alone would not last.
            return ["zero_power", "stop"]
        return ["zero_power"]

    def _quiet_pause_s(self) -> float:
        """Return the time between looks in which a controller, if there is one, is caught writing."""
        watchdog = self._profile.watchdog
        between = max(1, self._options.samples - 1)
        cycle_s = watchdog.timeout_s / _FEEDS if watchdog is not None else 0.0
        return max(self._options.interval_s, cycle_s / between + _SILENT_LOOK_S)

    def _written_points(self) -> list[str]:
        watchdog = self._profile.watchdog
        names = {step.point: None for step in self._profile.recipes["set_power"]}
        if watchdog is not None and watchdog.point is not None:
            names[watchdog.point] = None
        return [name for name in names if name not in self._profile.write_only]

    def _add(self, check: Check) -> bool:
        self._report.checks.append(check)
        return check.passed


def _shown(look: Observation) -> dict[str, float | None]:
    return {"setpoint_kw": look.setpoint_kw, "power_kw": look.power_kw}
