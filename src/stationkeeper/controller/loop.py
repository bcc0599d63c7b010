"""One device's endless loop: sample, store, decide, command, prove, feed the watchdog.

Each device has its own, so that one that is silent or slow takes nothing from the others but the time that
they share on one connection. All waiting is on the monotonic clock.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable

from stationkeeper.controller.components import Decision, Situation, decide
from stationkeeper.controller.device import Device
from stationkeeper.controller.guard import Holds
from stationkeeper.controller.metrics import Metrics
from stationkeeper.controller.recorder import Recorder
from stationkeeper.controller.schema import Battery, Controller

LOG = logging.getLogger("stationkeeper.controller")
# Within one time-out a device's watchdog is fed three times, so that one lost cycle does no harm.
FEEDS_PER_TIMEOUT = 3
# Whatever the time-outs are, a cycle that takes longer is given up.
CYCLE_LIMIT_S = 20.0
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
        holds: Callable[[], Holds],
        decided: Callable[[], None],
    ) -> None:
        """``holds`` gives the present holds, ``decided`` is called after each decision."""
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
        self._ending = False
        self.due_by_s = 0.0
        self._set_due()

    @property
    def decision_interval_s(self) -> float:
        """Time between decisions in seconds."""
        watchdog = self.device.profile.watchdog
        feed_s = watchdog.timeout_s / FEEDS_PER_TIMEOUT if watchdog else math.inf
        return min(self._controller.poll_interval_s, feed_s)

    def _set_due(self) -> None:
        # From then on the loop is late: systemd's watchdog is not fed any more.
        self.due_by_s = time.monotonic() + self.decision_interval_s + CYCLE_LIMIT_S

    def end(self) -> None:
        """Let the loop end after the cycle in progress."""
        self._ending = True
        self.wake.set()

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
        if isinstance(self.device.config, Battery) and self.device.config.writes_enabled:
            decision = self._decide(self.device.config)
            outcome = await self.device.command(decision.setpoint_kw)
            if outcome.is_success:
                await self.device.feed_watchdog()

    def _decide(self, battery: Battery) -> Decision:
        profile, latest, holds = self.device.profile, self.device.latest, self._holds()
        if profile.limits is None:
            raise ValueError(f"profile {profile.name} has no limits")
        values = latest.values if latest else {}
        situation = Situation(
            rating_kw=battery.rating_kw,
            device_limits=profile.limits,
            freshness_s=self._controller.freshness_s,
            latch=holds.latch,
            site_limits=self._controller.limits,
            maintenance=self._controller.maintenance,
            safe_mode=holds.safe_mode,
            to_soe=self._controller.to_soe,
            soe_percent=values.get("soe_percent"),
            power_kw=values.get(profile.measured_power),
            age_s=time.monotonic() - latest.monotonic_s if latest else None,
        )
        decision, before = decide(situation), self.decision
        changed = before is None or (before.component, before.setpoint_kw) != (
            decision.component,
            decision.setpoint_kw,
        )
        if changed:
            LOG.info("%s: %s: %g kW: %s", self.device.name, decision.component, decision.setpoint_kw,
                     decision.reason)  # fmt: skip
        self.decision = decision
        self._decided()
        return decision
