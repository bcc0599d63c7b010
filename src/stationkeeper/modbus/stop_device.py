"""The stop of one device: write zero, escalate to its own stop command, look until it is proven."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any

from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.errors import DeviceExceptionError, ModbusError, RequestError
from stationkeeper.modbus.outcome import Outcome
from stationkeeper.modbus.stop_evidence import Criteria, Observation, Reading, SiteState, Verification
from stationkeeper.modbus.stop_types import Endpoint, StopOptions, StopResult, Target
from stationkeeper.modbus.stop_verdict import Facts, fallback_s, verdict, without_answer
from stationkeeper.profiles.access import Sample, Written, plan_for_device, read_points, read_sample
from stationkeeper.profiles.schema import Profile, RecipeName
from stationkeeper.profiles.sunspec import SunSpecError

_ACKNOWLEDGED, _BUSY = 5, 6
_FROM_GATEWAY = (10, 11)
_KEPT = 10
# A device that cannot be reached is tried again after 1, 2, 4, then 8 intervals.
_LONGEST_BACK_OFF = 3


class DeviceStop:
    """The stop of one device, from the first write to the verdict."""

    def __init__(
        self,
        target: Target,
        options: StopOptions,
        clients: dict[tuple[str, int], StrictClient],
        started: float,
    ) -> None:
        self._target = target
        self._options = options
        self._profile = target.device.profile
        self._client = clients[target.device.host, target.device.port]
        self._meter_client = clients[target.meter.host, target.meter.port] if target.meter else None
        self._started = started
        self._started_at = datetime.now(UTC)
        rating_kw = target.rating_kw or self._profile.rating_kw
        threshold_kw = max(self._profile.noise_floor_kw, 0.01 * rating_kw)
        meter_threshold_kw = max(target.meter.profile.noise_floor_kw, threshold_kw) if target.meter else None
        tolerance_kw = float(self._profile.verify.tolerance) if self._profile.verify else 0.0
        self._verification = Verification(
            Criteria(options.samples, options.hold_s, tolerance_kw, threshold_kw, meter_threshold_kw)
        )
        self._pending: list[RecipeName] = ["zero_power"]
        if self._profile.watchdog and self._profile.watchdog.fallback in ("autonomous", "hold_last"):
            # Its dead-man would not leave it at zero, so zero alone is not a state to leave it in.
            self._pending.append("stop")
        self._patience_s = options.window_s / 2
        self._escalated = False
        self._refused = ""
        self._answered = False
        self._silent = False
        self._misses = 0
        self._first_look: Observation | None = None
        self.result = StopResult(target.station, target.name, str(target.device), threshold_kw=threshold_kw)

    async def run(self) -> None:
        """Bring the result to its verdict; takes at most `window_s + hold_s` and one answer's time."""
        limit_s = self._options.window_s + self._options.hold_s + self._options.response_timeout_s
        try:
            async with asyncio.timeout_at(asyncio.get_running_loop().time() + limit_s):
                await (self._look_only() if self._options.dry_run else self._stop())
        except TimeoutError:
            self._note("the deadline has passed")
        except (RequestError, SunSpecError) as error:
            # A profile without the recipe, or a device of another kind: nothing can be sent, and nothing was.
            self._refused = error.message
        if not self._options.dry_run:
            self._conclude()
        elif self._refused:
            self._enter(SiteState.FAILED, self._refused)

    # --- the stop itself

    async def _stop(self) -> None:
        while True:
            cycle = self._now()
            connected = await self._write_pending()
            self._misses = 0 if connected else self._misses + 1
            if connected:
                await self._observe()
            if (self._verification.verified or self._refused) and not self._pending:
                return
            if self._is_over():
                return
            # A device that has to be fought gets its next command at once.
            if not self._escalate():
                pause_s = self._options.interval_s * 2 ** min(self._misses, _LONGEST_BACK_OFF)
                await asyncio.sleep(max(0.0, cycle + pause_s - self._now()))

    def _is_over(self) -> bool:
        now, window_s = self._now(), self._options.window_s
        if now >= window_s + self._options.hold_s:
            return True
        # After the window only a zero that is being held, or a fight, is worth more time.
        return now >= window_s and not self._verification.holding and not self.result.contended

    async def _write_pending(self) -> bool:
        """Send the pending recipes; returns False when the device cannot be reached at all."""
        while self._pending:
            recipe = self._pending[0]
            steps = await self._plan(recipe)
            if steps is None:
                return not self._silent
            for step in steps:
                error = await self._write(recipe, step)
                if error is None:
                    continue
                if isinstance(error, DeviceExceptionError) and error.code == _BUSY:
                    return True
                if error.outcome is Outcome.REJECTED:
                    self._take_refusal(recipe, error)
                    break
                # Silence: it stays pending, and the look that follows tells what became of it.
                return error.outcome is Outcome.UNKNOWN
            else:
                self._refused = ""
                self._pending.remove(recipe)
        return True

    async def _plan(self, recipe: RecipeName) -> list[Written] | None:
        """Return the writes of a recipe; None when the device would have to answer first and does not.

        A SunSpec device is asked where its models lie; all others need no question.
        """
        try:
            return await plan_for_device(self._client, self._target.device.unit, self._profile, recipe)
        except (RequestError, SunSpecError):
            raise
        except ModbusError as error:
            self._heard(error)
            return None

    async def _write(self, recipe: RecipeName, step: Written) -> ModbusError | None:
        began = time.monotonic()
        error: ModbusError | None = None
        outcome = Outcome.UNKNOWN
        try:
            await self._client.write(self._target.device.unit, step.address, step.words)
            outcome = Outcome.ACCEPTED_UNVERIFIED
        except ModbusError as failure:
            outcome = failure.outcome
            # "Acknowledge" is a yes that takes time; the observations wait for it anyway.
            acknowledged = isinstance(failure, DeviceExceptionError) and failure.code == _ACKNOWLEDGED
            error = None if acknowledged else failure
        finally:
            # Also when the deadline ends the wait: what has left is never reported as not sent.
            self._record(recipe, step, began, outcome)
        self._heard(error)
        return error

    def _record(self, recipe: RecipeName, step: Written, began: float, outcome: Outcome) -> None:
        sent_at = self._client.sent_at
        if sent_at is None or sent_at < began:
            return
        after_s = round(sent_at - self._started, 3)
        if self.result.first_write_s is None:
            self.result.first_write_s, self.result.first_write_at = after_s, self._stamp(after_s)
        self.result.writes.append({**_described(recipe, step), "at_s": after_s, "outcome": str(outcome)})

    def _take_refusal(self, recipe: RecipeName, error: ModbusError) -> None:
        self._refused = error.message
        self._pending = [] if recipe == "stop" or "stop" not in self._profile.recipes else ["stop"]

    def _escalate(self) -> bool:
        """Turn to the device's own stop against another master, or when zero has no effect; True if so."""
        if self._verification.contended:
            if not self.result.contended:
                self.result.contended = True
                self._enter(SiteState.CONTENDED)
        elif self._escalated or self._pending or self._now() < self._patience_s or self._seems_zero:
            return False
        self._escalated = True
        self._verification.restart()
        self._pending = ["zero_power"]
        if "stop" in self._profile.recipes:
            self._pending.append("stop")
        return True

    @property
    def _seems_zero(self) -> bool:
        return self._verification.readback_is_zero and self._verification.power_is_zero is not False

    # --- looking

    async def _observe(self) -> None:
        device, meter = await asyncio.gather(
            self._sample(self._client, self._target.device),
            self._sample(self._meter_client, self._target.meter),
        )
        if device is None:
            self._verification.interrupt()
            return
        setpoint_kw = await self._readback(device)
        seen = Observation(
            round(self._now(), 3),
            setpoint_kw,
            _reading(device, self._profile),
            _reading(meter, self._target.meter.profile) if meter and self._target.meter else None,
        )
        self._first_look = self._first_look or seen
        self._verification.observe(seen)
        self._keep(seen)

    async def _sample(self, client: StrictClient | None, end: Endpoint | None) -> Sample | None:
        if client is None or end is None:
            return None
        try:
            sample = await read_sample(client, end.unit, end.profile)
        except ModbusError as error:
            self._note(error.message)
            if end is self._target.device:
                self._heard(error)
            return None
        if end is self._target.device:
            self._heard(None)
        return sample

    async def _readback(self, sample: Sample) -> float | None:
        verify = self._profile.verify
        if verify is None:
            return None
        if verify.point in sample:
            return sample[verify.point]
        unit = self._target.device.unit
        try:
            return (await read_points(self._client, unit, self._profile, [verify.point]))[verify.point]
        except ModbusError as error:
            self._heard(error)
            return None

    async def _look_only(self) -> None:
        """The dry run: what would be written, and how the device stands."""
        plans = [(recipe, await self._plan(recipe)) for recipe in self._pending]
        self.result.writes = [_described(recipe, step) for recipe, steps in plans for step in steps or ()]
        await self._observe()
        self._show_last()
        watchdog = self._profile.watchdog
        if watchdog and watchdog.fed_by == "any_message":
            self._note(
                "reading feeds this device's watchdog: a dry run keeps its controller's dead-man waiting"
            )
        if self._verification.last is None:
            self._enter(*without_answer(self._target, self.result, written=False))
            return
        at_zero = self._verification.readback_is_zero and self._verification.power_is_zero is True
        self.result.changed = not at_zero
        standing = "stands at zero" if at_zero else "does not stand at zero"
        self._enter(SiteState.PLANNED, f"{standing}; {len(self.result.writes)} writes would be sent")

    # --- the report

    def _conclude(self) -> None:
        self._show_last()
        state, message = verdict(
            Facts(
                target=self._target,
                verification=self._verification,
                result=self.result,
                refused=self._refused,
                pending=tuple(self._pending),
                answered=self._answered,
                silent=self._silent,
            )
        )
        if state is SiteState.VERIFIED_ZERO and self._verification.last is not None:
            self.result.verified_s = self._verification.last.at_s
            self.result.verified_at = self._stamp(self._verification.last.at_s)
        by_itself_s = fallback_s(self._profile)
        if state is SiteState.UNREACHABLE_DEADMAN_PENDING and by_itself_s is not None:
            self.result.expected_zero_by = self._stamp(self._now() + by_itself_s)
        proven = state in (SiteState.VERIFIED_ZERO, SiteState.READBACK_ONLY)
        self.result.changed = self._moved() or (bool(self.result.writes) and not proven)
        self._enter(state, message)

    def _moved(self) -> bool:
        """True when the first look after the zero write still saw power or a set-point."""
        look, result = self._first_look, self.result
        if result.contended or self._escalated:
            return True
        if look is None:
            return False
        return abs(look.setpoint_kw or 0) > 0 or abs(look.device.power_kw or 0) > result.threshold_kw

    def _heard(self, error: ModbusError | None) -> None:
        # Exceptions 10 and 11 come from a gateway: the device itself has said nothing.
        by_device = isinstance(error, DeviceExceptionError) and error.code not in _FROM_GATEWAY
        self._silent = error is not None and not by_device
        self._answered = self._answered or not self._silent
        if error is not None:
            self._note(error.message)

    def _note(self, message: str) -> None:
        if not self.result.errors or self.result.errors[-1] != message:
            self.result.errors = [*self.result.errors, message][-_KEPT:]

    def _keep(self, seen: Observation) -> None:
        entry = {
            "at_s": seen.at_s,
            "setpoint_kw": seen.setpoint_kw,
            "power_kw": seen.device.power_kw,
            "heartbeat": seen.device.heartbeat,
        }
        if seen.meter:
            entry |= {"meter_power_kw": seen.meter.power_kw, "meter_heartbeat": seen.meter.heartbeat}
        self.result.before = self.result.before or entry
        self.result.samples = [*self.result.samples, entry][-_KEPT:]

    def _show_last(self) -> None:
        last = self._verification.last
        if last is not None:
            self.result.setpoint_kw = last.setpoint_kw
            self.result.power_kw = last.device.power_kw
            self.result.meter_power_kw = last.meter.power_kw if last.meter else None

    def _enter(self, state: SiteState, message: str = "") -> None:
        self.result.state, self.result.message = state, message
        if not self.result.history or self.result.history[-1]["state"] != state:
            at_s = round(self._now(), 3)
            self.result.history.append({"at_s": at_s, "at": self._stamp(at_s), "state": str(state)})

    def _now(self) -> float:
        return time.monotonic() - self._started

    def _stamp(self, after_s: float) -> str:
        return (self._started_at + timedelta(seconds=after_s)).isoformat(timespec="milliseconds")


def _described(recipe: RecipeName, step: Written) -> dict[str, Any]:
    words = " ".join(f"{word:04X}" for word in step.words)
    return {
        "recipe": recipe,
        "point": step.point,
        "value": step.value,
        "address": step.address,
        "words": words,
    }


def _reading(sample: Sample, profile: Profile) -> Reading:
    return Reading(sample[profile.measured_power], sample[profile.heartbeat])
