"""One device's endless loop: sample, store, decide, command, prove, feed the watchdog.

Each device has its own, so that one that is silent or slow takes nothing from the others but the time that
they share on one connection. All waiting is on the monotonic clock.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence

from stationkeeper.controller.automatic import decision_interval_s
from stationkeeper.controller.components import Decision, decide
from stationkeeper.controller.device import Device
from stationkeeper.controller.metrics import Metrics
from stationkeeper.controller.modes import Holds
from stationkeeper.controller.recorder import Recorder
from stationkeeper.controller.schema import Battery, Controller
from stationkeeper.controller.situation import Outlook
from stationkeeper.modbus.outcome import Outcome

LOG = logging.getLogger("stationkeeper.controller")
# Whatever the time-outs are, a cycle that takes longer is given up.
CYCLE_LIMIT_S = 20.0
# The service's own limit for an end, less the time that the proof of 0 kW may take.
RAMP_DOWN_LIMIT_S = 8.0
# Timers may fire a little early.
EARLY_S = 0.005


class DeviceLoop:
    """Samples every poll interval; decides with each sample, on `wake`, and to feed the watchdog."""

    def __init__(
        self,
        device: Device,
        controller: Controller,
        *,
        recorder: Recorder,
        metrics: Metrics,
        station: Sequence[Device],
        holds: Callable[[], Holds],
        decided: Callable[[], None],
    ) -> None:
        """``station`` is all its devices, ``holds`` gives the present holds; ``decided`` is called after."""
        self.device = device
        self.decision: Decision | None = None
        self.started = asyncio.Event()
        self.wake = asyncio.Event()
        self.cycles_s: list[float] = []
        self._controller = controller
        self._recorder = recorder
        self._metrics = metrics
        self._holds = holds
        self._decided = decided
        self._outlook = Outlook(device, controller, station)
        self._ramping = False
        self._ending = False
        self.due_by_s = 0.0
        self._set_due()

    @property
    def decision_interval_s(self) -> float:
        """Time between decisions in seconds."""
        ramp_s = self.device.ramp.step_s if self._ramping else math.inf
        return min(decision_interval_s(self.device.profile, self._controller.poll_interval_s), ramp_s)

    def _set_due(self) -> None:
        # From then on the loop is late: systemd's watchdog is not fed any more.
        self.due_by_s = time.monotonic() + self.decision_interval_s + CYCLE_LIMIT_S

    def end(self) -> None:
        """Let the loop end after the cycle in progress."""
        self._ending = True
        self.wake.set()

    async def finish(self) -> Outcome:
        """Ramp a battery down to 0 kW, however the ramp is set within `RAMP_DOWN_LIMIT_S`, and prove it."""
        device, limit = self.device, self._outlook.ramp_kw_per_s
        holds = self._holds()
        if self._outlook.writes_blocked(holds) or (device.local and holds.latch is None):
            return await device.check(0.0)
        if limit is not None and holds.latch is None:
            limit = max(limit, abs(device.ramp.power_kw) / RAMP_DOWN_LIMIT_S)
            try:
                async with asyncio.timeout(RAMP_DOWN_LIMIT_S + 1):
                    await self._ramp_down(limit)
            except TimeoutError:
                LOG.warning("%s: the ramp to 0 kW takes too long", device.name)
        return await device.command(0.0)

    async def _ramp_down(self, limit_kw_per_s: float) -> None:
        device = self.device
        while True:
            started_s = time.monotonic()
            power_kw = device.ramp.towards(0.0, started_s, limit_kw_per_s)
            if power_kw == 0:
                return
            if (await device.command(power_kw)).is_success:
                await device.feed_watchdog()
            device.ramp.commanded(power_kw, started_s)
            await asyncio.sleep(max(0.0, started_s + device.ramp.step_s - time.monotonic()))

    async def run(self) -> None:
        """Run until `end`."""
        # A battery is told 0 kW before anything is measured: an old set-point never comes back.
        await self._cycle(sampling=False)
        self.started.set()
        interval_s = self._controller.poll_interval_s
        next_sample_s = time.monotonic()
        while not self._ending:
            self.wake.clear()
            sampling = time.monotonic() >= next_sample_s - EARLY_S
            await self._cycle(sampling=sampling)
            now = time.monotonic()
            if sampling:
                # On a fixed grid, so that samples do not drift; missed instants are left out.
                next_sample_s += interval_s * max(1, math.ceil((now - next_sample_s) / interval_s))
            try:
                async with asyncio.timeout_at(
                    asyncio.get_running_loop().time() + min(next_sample_s - now, self.decision_interval_s)
                ):
                    await self.wake.wait()
            except TimeoutError:
                continue

    async def _cycle(self, *, sampling: bool) -> None:
        started = time.monotonic()
        try:
            async with asyncio.timeout(CYCLE_LIMIT_S):
                await self._serve(sampling)
        except TimeoutError:
            LOG.error("%s: given up after %g s in this cycle", self.device.name, CYCLE_LIMIT_S)
        except Exception:
            # A defect must not end the loop; until it is gone, the device's own watchdog starves.
            LOG.exception("%s: unexpected failure in this cycle", self.device.name)
        duration_s = time.monotonic() - started
        self._metrics.cycle(duration_s)
        self.cycles_s.append(duration_s)
        self._set_due()

    async def _serve(self, sampling: bool) -> None:
        if sampling:
            sample = await self.device.sample()
            if sample is not None:
                await self._recorder.save(sample)
                await self.device.check_identity()
                self._outlook.measured()
        battery = self.device.config
        if isinstance(battery, Battery) and battery.writes_enabled and await self._command(battery):
            await self.device.feed_watchdog()

    async def _command(self, battery: Battery) -> bool:
        """Decide, and bring the decision to the device; return whether it is proven."""
        device, holds = self.device, self._holds()
        decision = self._decide(battery, holds)
        now_s = time.monotonic()
        power_kw = decision.setpoint_kw
        if holds.latch is None:
            ramped_kw = device.ramp.towards(power_kw, now_s, self._outlook.ramp_kw_per_s)
            # Limits outrank the ramp: a full battery is not charged until the ramp has ended.
            power_kw = decision.bounds.nearest(ramped_kw)
        self._ramping = power_kw != decision.setpoint_kw
        if device.local and holds.latch is None:
            # Whoever is at the device is in charge of it.
            outcome = Outcome.BLOCKED_BY_INTERLOCK
        elif self._outlook.writes_blocked(holds):
            # During maintenance nothing is written any more, but a device whose set-point is proven is not
            # left to its own watchdog.
            outcome = await device.check(0.0)
            if outcome.is_success:
                device.automatic.commanded(now_s, 0.0, outcome)
        else:
            outcome = await device.command(power_kw)
            device.ramp.commanded(power_kw, time.monotonic())
            device.automatic.commanded(now_s, power_kw, outcome)
        device.zero.commanded(device.ramp.power_kw, outcome)
        self._metrics.zero_verified(device.name, device.zero.verified)
        return outcome.is_success

    def _decide(self, battery: Battery, holds: Holds) -> Decision:
        situation = self._outlook.situation(battery, holds, time.monotonic())
        decision, before = decide(situation), self.decision
        changed = before is None or (before.component, before.setpoint_kw) != (
            decision.component,
            decision.setpoint_kw,
        )
        if changed:
            LOG.info("%s: %s: %g kW: %s", self.device.name, decision.component, decision.setpoint_kw,
                     decision.reason)  # fmt: skip
        self.decision = decision
        self._metrics.safe_mode(self.device.name, self._outlook.safe_mode)
        self._decided()
        return decision
