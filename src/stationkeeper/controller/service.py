"""The controller's loop: sample, store, decide, command, prove, feed the watchdogs, for ever.

All waiting is on the monotonic clock. Three rhythms: samples every ``poll_interval``; decisions with each
sample and often enough to keep the devices' watchdogs fed; the latch several times a second, which wakes the
decision at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
import uuid

from stationkeeper.controller.components import Decision, Situation, decide
from stationkeeper.controller.config import (
    Loaded,
    keep_as_last_good,
    load,
    load_database,
    load_or_last_good,
)
from stationkeeper.controller.device import Device
from stationkeeper.controller.guard import Guard, Holds
from stationkeeper.controller.logs import set_up_logging
from stationkeeper.controller.merge import ConfigError
from stationkeeper.controller.metrics import Metrics
from stationkeeper.controller.notify import notify, watchdog_period_s
from stationkeeper.controller.paths import Paths
from stationkeeper.controller.recorder import Recorder
from stationkeeper.controller.schema import Battery, Meter
from stationkeeper.controller.store import Store
from stationkeeper.controller.upload import Uploader
from stationkeeper.modbus.client import StrictClient
from stationkeeper.modbus.outcome import Outcome

LOG = logging.getLogger("stationkeeper.controller")
LATCH_EVERY_S = 0.25
# Within one time-out a device's watchdog is fed three times, so that one lost cycle does no harm.
FEEDS_PER_TIMEOUT = 3
# No device may hold its own cycle up longer than this, whatever its time-outs are.
DEVICE_LIMIT_S = 20.0
STOP_LIMIT_S = 12.0
FINISH_LIMIT_S = 2.0
SUMMARY_EVERY_S = 60.0


class Service:
    """One station's controller. Raises ConfigError at the start when there is no usable configuration."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.loaded = load_or_last_good(paths.files)
        self.boot_id = str(uuid.uuid4())
        self.log_files = set_up_logging(self.loaded.config.logging)
        self.metrics = Metrics(self.loaded.config.site)
        self.stopping = asyncio.Event()
        self.reloading = asyncio.Event()
        self.metrics_port = 0
        self._wake = asyncio.Event()
        self._guard = Guard(*paths.latches, paths.safe_mode)
        # Until it was looked at, the station counts as latched.
        self._holds = Holds("not looked at yet", None)
        self._recorder = Recorder(self._open_store, self.metrics)
        self._devices: list[Device] = []
        self._decisions: dict[str, Decision] = {}
        self._cycles: list[float] = []
        self._cycle_due_by = time.monotonic() + DEVICE_LIMIT_S
        upload = self.loaded.config.data_platform.upload
        self._uploader = Uploader(
            lambda: Store(paths.buffer, create=False),
            lambda: load_database(paths.files.database).model_dump(),
            self.metrics,
            batch_size=upload.batch_size,
            interval_s=upload.interval_s,
        )

    def _open_store(self) -> Store:
        bounds = self.loaded.config.data_platform.buffer
        return Store(self.paths.buffer, max_rows=bounds.max_rows, max_bytes=bounds.max_bytes)

    async def run(self) -> None:
        """Control until `stopping` is set, then leave all batteries at 0 kW."""
        self._adopt(self.loaded)
        self._serve_metrics()
        await self._recorder.start()
        self._uploader.start()
        self._take(await self._guard.look())
        # A cycle in progress is given up at a stop: a silent device must not use up the time for 0 kW.
        tasks = [
            asyncio.create_task(part()) for part in (self._control_loop, self._watch, self.stopping.wait)
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            notify("STOPPING=1")
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await self._command_zero(self._devices)
            self._uploader.stop()
            await self._recorder.close()
            await self._close_devices(self._devices)
            self._guard.close()
            LOG.info("stopped")

    def _serve_metrics(self) -> None:
        metrics = self.loaded.config.metrics
        try:
            self.metrics_port = self.metrics.serve(metrics.address, metrics.port)
        except OSError as error:
            # Blind, but in control.
            LOG.error("no metrics: %s:%d: %s", metrics.address, metrics.port, error.strerror)

    # Configuration

    def _adopt(self, loaded: Loaded) -> None:
        """Put a configuration in force and say which one it is."""
        config = loaded.config
        self.loaded = loaded
        sequences = {device.config.id: device.seq for device in self._devices}
        clients: dict[tuple[str, int], StrictClient] = {}
        self._devices = []
        configured: list[Battery | Meter] = [*config.devices.bess, *config.devices.meter]
        for device in configured:
            profile = loaded.profiles[device.profile]
            endpoint = (device.modbus.host, device.modbus.port)
            # One connection to an endpoint, whatever the number of units: some gateways have only one.
            client = clients.setdefault(
                endpoint,
                StrictClient(
                    *endpoint,
                    device.modbus.timeout_s,
                    device.modbus.timeout_s,
                    min_gap_s=profile.min_request_gap_ms / 1000,
                ),
            )
            seq = sequences.get(device.id, 0)
            self._devices.append(Device(device, profile, client, self.metrics, boot_id=self.boot_id, seq=seq))
        self._uploader.batch_size = config.data_platform.upload.batch_size
        self._uploader.interval_s = config.data_platform.upload.interval_s
        self._say_config(loaded.problems)
        if not loaded.problems:
            try:
                keep_as_last_good(loaded, self.paths.files.last_good)
            except OSError as error:
                LOG.error("%s: cannot be written: %s", self.paths.files.last_good, error.strerror)

    def _say_config(self, problems: tuple[str, ...]) -> None:
        for problem in problems:
            LOG.error("configuration refused, the last good one stays in force: %s", problem)
        interval_s = self.loaded.config.controller.poll_interval_s
        self.metrics.config(valid=not problems, hash=self.loaded.hash, poll_interval_s=interval_s)
        LOG.info("configuration %s in force, poll_interval %gs", self.loaded.hash, interval_s)

    async def _reload(self) -> None:
        """Take over changed files; an invalid or unusable configuration leaves everything as it is."""
        self.log_files.reopen()
        files = self.paths.files
        try:
            loaded = await asyncio.to_thread(load, files.config, files.override, files.profiles)
            if loaded.config.site != self.loaded.config.site:
                raise ConfigError([f"{files.config}: site: cannot change while running; restart the service"])
        except ConfigError as error:
            self._say_config(error.problems)
            return
        self._uploader.reconnect()
        if loaded.document == self.loaded.document and loaded.profiles == self.loaded.profiles:
            self._say_config(())
            return
        before_config, config = self.loaded.config, loaded.config
        if (before_config.metrics, before_config.data_platform.buffer) != (
            config.metrics,
            config.data_platform.buffer,
        ):
            LOG.warning("changed settings of metrics and buffer take effect at the next start")
        kept = {device.id for device in config.devices.bess}
        before = self._devices
        await self._command_zero([device for device in before if device.config.id not in kept])
        self.log_files.apply(config.logging)
        self.metrics.forget_devices()
        self._decisions.clear()
        self._adopt(loaded)
        await self._close_devices(before)

    # Control

    @property
    def _control_interval_s(self) -> float:
        """Time between decisions: each sample, and often enough for every device's watchdog."""
        watchdogs = [device.profile.watchdog for device in self._devices]
        feeds_s = [watchdog.timeout_s / FEEDS_PER_TIMEOUT for watchdog in watchdogs if watchdog]
        return min([self.loaded.config.controller.poll_interval_s, *feeds_s])

    async def _control_loop(self) -> None:
        # Before anything is measured, every battery is told 0 kW: an old set-point never comes back.
        await self._cycle(sampling=False)
        notify("READY=1")
        next_sample = last_summary = time.monotonic()
        while not self.stopping.is_set():
            if self.reloading.is_set():
                self.reloading.clear()
                await self._reload()
                next_sample = time.monotonic()
            self._wake.clear()
            # Timers may fire a little early.
            sampling = time.monotonic() >= next_sample - 0.005
            await self._cycle(sampling=sampling)
            interval_s = self.loaded.config.controller.poll_interval_s
            if sampling:
                # On a fixed grid, so that samples do not drift; missed instants are left out.
                next_sample += interval_s * max(1, math.ceil((time.monotonic() - next_sample) / interval_s))
            if time.monotonic() - last_summary >= SUMMARY_EVERY_S:
                last_summary = time.monotonic()
                self._summarise()
            await self._sleep_until(min(next_sample, time.monotonic() + self._control_interval_s))

    async def _sleep_until(self, instant: float) -> None:
        """Wait, but not when a stop, a reload or a new hold asks for something now."""
        waits = [asyncio.create_task(event.wait()) for event in (self.stopping, self.reloading, self._wake)]
        try:
            timeout_s = max(0.0, instant - time.monotonic())
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _cycle(self, *, sampling: bool) -> None:
        started = time.monotonic()
        self._cycle_due_by = started + DEVICE_LIMIT_S + self._control_interval_s
        await asyncio.gather(*(self._serve(device, sampling) for device in self._devices))
        duration_s = time.monotonic() - started
        self.metrics.deciding({decision.component for decision in self._decisions.values()})
        self.metrics.cycle(duration_s)
        self._cycles.append(duration_s)
        self._cycle_due_by = time.monotonic() + DEVICE_LIMIT_S + self._control_interval_s

    async def _serve(self, device: Device, sampling: bool) -> None:
        """Do one device's part of the cycle; nothing that goes wrong here reaches another device."""
        try:
            async with asyncio.timeout(DEVICE_LIMIT_S):
                if sampling:
                    sample = await device.sample()
                    if sample is not None:
                        await self._recorder.save(sample)
                if isinstance(device.config, Battery):
                    await self._control(device, device.config)
        except TimeoutError:
            LOG.error("%s: given up after %g s in this cycle", device.name, DEVICE_LIMIT_S)
        except Exception:
            # A defect in one device's code must not take the others' control away; its own watchdog starves.
            LOG.exception("%s: unexpected failure in this cycle", device.name)

    async def _control(self, device: Device, battery: Battery) -> None:
        controller = self.loaded.config.controller
        limits = device.profile.limits
        if limits is None:
            raise ValueError(f"profile {device.profile.name} has no limits")
        latest = device.latest
        values = latest.values if latest else {}
        decision = decide(
            Situation(
                rating_kw=battery.rating_kw,
                device_limits=limits,
                freshness_s=controller.freshness_s,
                latch=self._holds.latch,
                site_limits=controller.limits,
                maintenance=controller.maintenance,
                safe_mode=self._holds.safe_mode,
                to_soe=controller.to_soe,
                soe_percent=values.get("soe_percent"),
                power_kw=values.get(device.profile.measured_power),
                age_s=time.monotonic() - latest.monotonic_s if latest else None,
            )
        )
        before = self._decisions.get(device.name)
        if before is None or before.component != decision.component or (before.reason != decision.reason):
            LOG.info(
                "%s: %s: %g kW: %s", device.name, decision.component, decision.setpoint_kw, decision.reason
            )
        self._decisions[device.name] = decision
        outcome = await device.command(decision.setpoint_kw)
        if outcome.is_success:
            await device.feed_watchdog()

    async def _command_zero(self, devices: list[Device]) -> None:
        batteries = [device for device in devices if isinstance(device.config, Battery)]
        tasks = {device.name: asyncio.create_task(device.command(0.0)) for device in batteries}
        if tasks:
            await asyncio.wait(tasks.values(), timeout=STOP_LIMIT_S)
        for name, task in tasks.items():
            failed = not task.done() or task.exception() is not None
            outcome = Outcome.UNKNOWN if failed else task.result()
            task.cancel()
            LOG.log(
                logging.INFO if outcome.is_success else logging.ERROR,
                "%s: left at 0 kW: %s",
                name,
                outcome.value,
            )

    @staticmethod
    async def _close_devices(devices: list[Device]) -> None:
        for client in {id(device.client): device.client for device in devices}.values():
            try:
                async with asyncio.timeout(1.0):
                    await client.close()
            except TimeoutError:
                LOG.warning("%s: the connection did not close in time", client.host)

    # Watching

    async def _watch(self) -> None:
        """Look at the holds and feed systemd's watchdog, as long as the control cycle is in time."""
        period_s = watchdog_period_s()
        fed = 0.0
        while True:
            self._take(await self._guard.look())
            now = time.monotonic()
            if now < self._cycle_due_by and (period_s is None or now - fed >= period_s / 3):
                fed = now
                notify(f"WATCHDOG=1\nSTATUS={self._status()}")
            await asyncio.sleep(LATCH_EVERY_S)

    def _take(self, holds: Holds) -> None:
        """Put what the guard saw in force; any change is told and decided on at once."""
        self.metrics.latched(holds.latch is not None)
        before, self._holds = self._holds, holds
        if holds == before:
            return
        self._wake.set()
        if holds.latch is not None:
            LOG.warning("emergency stop: latched: %s", holds.latch)
        elif before.latch is not None:
            LOG.info("emergency stop: not latched")
        if holds.safe_mode != before.safe_mode:
            LOG.warning("safe mode: %s", holds.safe_mode or "off")

    def _status(self) -> str:
        parts = [
            f"{name} {decision.setpoint_kw:g} kW by {decision.component}"
            for name, decision in self._decisions.items()
        ]
        return f"{self.loaded.config.site}: {', '.join(parts) or 'no decision yet'}"

    def _summarise(self) -> None:
        """Log the cycle time, once a minute."""
        cycles, self._cycles = self._cycles, []
        LOG.info(
            "cycle_time mean=%.3fs max=%.3fs cycles=%d", sum(cycles) / len(cycles), max(cycles), len(cycles)
        )
