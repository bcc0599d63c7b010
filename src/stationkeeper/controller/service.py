"""The controller as a service: its configuration, its devices' loops, the watch over both, start and end."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from dataclasses import replace
from typing import Any

from stationkeeper.controller.clock import SYNCHRONISED, Clock
from stationkeeper.controller.config import (
    Loaded,
    keep_as_last_good,
    load,
    load_database,
    load_or_last_good,
)
from stationkeeper.controller.device import Device
from stationkeeper.controller.guard import Guard
from stationkeeper.controller.logs import set_up_logging
from stationkeeper.controller.loop import DeviceLoop
from stationkeeper.controller.memory import read_memory, write_memory
from stationkeeper.controller.merge import ConfigError
from stationkeeper.controller.metrics import Metrics
from stationkeeper.controller.modes import UNKNOWN, Holds, Modes, Moment, Seen
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
# Together they stay below the unit's TimeoutStopSec.
FINISH_LIMIT_S = 3.0
STOP_LIMIT_S = 18.0
SUMMARY_EVERY_S = 60.0


class Service:
    """One station's controller. Raises ConfigError at the start when there is no usable configuration."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.clock = Clock()
        self.loaded = load_or_last_good(paths.files)
        self._problems: tuple[str, ...] = ()
        self.boot_id = str(uuid.uuid4())
        self.log_files = set_up_logging(self.loaded.config.logging)
        self.metrics = Metrics(self.loaded.config.site)
        self.stopping = asyncio.Event()
        self.reloading = asyncio.Event()
        self._guard = Guard(*paths.latches, paths.orders)
        self._holds = UNKNOWN
        self._modes = Modes(read_memory(paths.modes))
        self._remembered: dict[str, str | None] = {}
        self._recorder = Recorder(self._open_store, self.metrics)
        self._devices: list[Device] = []
        self._loops: dict[DeviceLoop, asyncio.Task[None]] = {}
        platform = self.loaded.config.data_platform
        self._uploader = Uploader(
            lambda: Store(paths.buffer, create=False),
            lambda: load_database(paths.files.database).model_dump(),
            self.metrics,
            batch_size=platform.upload.batch_size,
            interval_s=platform.upload.interval_s,
            retention_s=platform.buffer.retention_s,
            clock=self.clock,
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
        await self._remember()
        watch = asyncio.create_task(self._watch())
        try:
            await self._supervise(watch)
        finally:
            notify("STOPPING=1")
            watch.cancel()
            loops = list(self._loops)
            await self._end_loops()
            await self._finish(loops)
            self._uploader.stop()
            await self._recorder.close()
            await self._close_connections(self._devices)
            self._guard.close()
            LOG.info("stopped")

    async def _supervise(self, watch: asyncio.Task[None]) -> None:
        """Keep the loops running, reload on request; a loop or watch that ends by itself ends the service."""
        events = [asyncio.create_task(event.wait()) for event in (self.stopping, self.reloading)]
        self._start_loops()
        starting = asyncio.create_task(self._wait_started())
        summary_due_s = time.monotonic() + SUMMARY_EVERY_S
        try:
            first: list[asyncio.Task[Any]] = [starting, events[0]]
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            notify("READY=1")
            await self._keep_as_last_good()
            while not self.stopping.is_set():
                tasks: list[asyncio.Task[Any]] = [*events, watch, *self._loops.values()]
                timeout_s = max(0.0, summary_due_s - time.monotonic())
                await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
                for task in (watch, *self._loops.values()):
                    if task.done():
                        task.result()
                        raise RuntimeError("a part of the controller ended by itself")
                if self.reloading.is_set():
                    self.reloading.clear()
                    await self._reload()
                    events[1] = asyncio.create_task(self.reloading.wait())
                if time.monotonic() >= summary_due_s:
                    summary_due_s += SUMMARY_EVERY_S
                    self._summarise()
        finally:
            starting.cancel()
            for event in events:
                event.cancel()

    async def _wait_started(self) -> None:
        for loop in list(self._loops):
            await loop.started.wait()

    def _start_loops(self) -> None:
        controller = self.loaded.config.controller
        for device in self._devices:
            loop = DeviceLoop(
                device,
                controller,
                recorder=self._recorder,
                metrics=self.metrics,
                station=self._devices,
                holds=lambda: self._holds,
                decided=self._tell_components,
            )
            self._loops[loop] = asyncio.create_task(loop.run())

    async def _end_loops(self) -> None:
        """Let each loop finish its cycle, so that no answer is lost, but wait for no silent device."""
        if not self._loops:
            return
        for loop in self._loops:
            loop.end()
        await asyncio.wait(self._loops.values(), timeout=FINISH_LIMIT_S)
        for task in self._loops.values():
            task.cancel()
        await asyncio.wait(self._loops.values())
        self._loops = {}

    def _serve_metrics(self) -> None:
        metrics = self.loaded.config.metrics
        try:
            self.metrics.serve(metrics.address, metrics.port)
        except OSError as error:
            # Blind, but in control.
            LOG.error("no metrics: %s:%d: %s", metrics.address, metrics.port, error.strerror)

    # Configuration

    def _adopt(self, loaded: Loaded) -> None:
        """Put a configuration in force and say which one it is."""
        config = loaded.config
        self.loaded = loaded
        before = {device.config.id: device for device in self._devices}
        clients: dict[tuple[str, int], StrictClient] = {}
        self._devices = []
        configured: list[Battery | Meter] = [*config.devices.bess, *config.devices.meter]
        for item in configured:
            profile = loaded.profiles[item.profile]
            endpoint = (item.modbus.host, item.modbus.port)
            # One connection to an endpoint, whatever the number of units: some gateways have only one.
            client = clients.setdefault(
                endpoint,
                StrictClient(
                    *endpoint,
                    item.modbus.timeout_s,
                    item.modbus.timeout_s,
                    min_gap_s=profile.min_request_gap_ms / 1000,
                ),
            )
            self.metrics.expect_device(item.name)
            device = Device(
                item,
                profile,
                client,
                self.metrics,
                boot_id=self.boot_id,
                clock=self.clock,
                failures_limit=config.controller.safe_mode.verification_failures,
            )
            if item.id in before:
                device.continue_from(before[item.id])
            self._devices.append(device)
        self._uploader.batch_size = config.data_platform.upload.batch_size
        self._uploader.interval_s = config.data_platform.upload.interval_s
        self._say_config(loaded.problems)

    async def _keep_as_last_good(self) -> None:
        """Store the configuration in force, unless it is the last good one already."""
        path = self.paths.files.last_good
        if self.loaded.problems:
            return
        try:
            # In a thread, because the disk may be slow and the loops are running.
            await asyncio.to_thread(keep_as_last_good, self.loaded, path)
        except OSError as error:
            LOG.error("%s: cannot be written: %s", path, error.strerror)

    def _say_config(self, problems: tuple[str, ...]) -> None:
        # Whoever wrote them wanted something, perhaps a restriction: until it is known, safe mode holds.
        self._problems = problems
        for problem in problems:
            LOG.error("configuration refused, the last good one stays in force: %s", problem)
        interval_s = self.loaded.config.controller.poll_interval_s
        self.metrics.config(valid=not problems, hash=self.loaded.hash, poll_interval_s=interval_s)
        LOG.info("configuration %s in force, poll_interval %gs", self.loaded.hash, interval_s)

    async def _reload(self) -> None:
        """Take over changed files; an invalid or unusable configuration leaves everything as it is."""
        self.log_files.reopen()
        # Whoever asks for a reload may want the backlog sent now; that hangs on no configuration.
        self._uploader.reconnect()
        files = self.paths.files
        try:
            loaded = await asyncio.to_thread(load, files.config, files.override, files.profiles)
            if loaded.config.site != self.loaded.config.site:
                raise ConfigError([f"{files.config}: site: cannot change while running; restart the service"])
        except ConfigError as error:
            self._say_config(error.problems)
            return
        if loaded.document == self.loaded.document and loaded.profiles == self.loaded.profiles:
            self._say_config(())
            return
        old, new = self.loaded.config, loaded.config
        if (old.metrics, old.data_platform.buffer) != (new.metrics, new.data_platform.buffer):
            LOG.warning("changed settings of metrics and buffer take effect at the next start")
        loops = list(self._loops)
        await self._end_loops()
        kept = {
            (battery.id, battery.modbus, battery.profile)
            for battery in new.devices.bess
            if battery.writes_enabled
        }
        before = self._devices
        leaving = [d for d in before if (d.config.id, d.config.modbus, d.config.profile) not in kept]
        await self._finish([loop for loop in loops if loop.device in leaving])
        await self._close_connections(before)
        self.log_files.apply(new.logging)
        self.metrics.forget_devices()
        self._adopt(loaded)
        self._start_loops()
        await self._keep_as_last_good()

    # Devices

    @staticmethod
    async def _finish(loops: list[DeviceLoop]) -> None:
        """Leave the batteries of loops that have ended at 0 kW."""
        batteries = [
            loop
            for loop in loops
            if isinstance(loop.device.config, Battery) and loop.device.config.writes_enabled
        ]
        tasks = {loop.device.name: asyncio.create_task(loop.finish()) for loop in batteries}
        if tasks:
            await asyncio.wait(tasks.values(), timeout=STOP_LIMIT_S)
        for name, task in tasks.items():
            failed = not task.done() or task.exception() is not None
            outcome = Outcome.UNKNOWN if failed else task.result()
            task.cancel()
            level = logging.INFO if outcome.is_success else logging.ERROR
            LOG.log(level, "%s: left at 0 kW: %s", name, outcome.value)

    @staticmethod
    async def _close_connections(devices: list[Device]) -> None:
        for client in {id(device.client): device.client for device in devices}.values():
            try:
                async with asyncio.timeout(1.0):
                    await client.close()
            except TimeoutError:
                LOG.warning("%s: the connection did not close in time", client.host)

    # Watching

    async def _watch(self) -> None:
        """Look at the holds and feed systemd's watchdog, as long as every device's cycle is in time."""
        period_s = watchdog_period_s()
        fed_s = 0.0
        while True:
            self._take(await self._guard.look())
            await self._remember()
            now = time.monotonic()
            in_time = all(now < loop.due_by_s for loop in self._loops)
            if in_time and (period_s is None or now - fed_s >= period_s / 3):
                fed_s = now
                notify(f"WATCHDOG=1\nSTATUS={self._status()}")
            await asyncio.sleep(LATCH_EVERY_S)

    def _take(self, seen: Seen) -> None:
        """Put what the guard saw in force; any change is told and decided on at once."""
        stamp = self.clock.stamp()
        moment = Moment(self.clock.now(), stamp.quality == SYNCHRONISED)
        rules = replace(self.loaded.config.controller.rules, problems=self._problems)
        holds = self._modes.update(seen, moment, rules)
        before, self._holds = self._holds, holds
        if holds != before:
            for loop in self._loops:
                loop.wake.set()
            _say_changes(before, holds)
        self.metrics.holds(seen, holds, moment)

    async def _remember(self) -> None:
        """Keep what must outlive a restart; in a thread, because the disk may be slow."""
        memory = self._modes.memory()
        if memory != self._remembered:
            self._remembered = memory
            problem = await asyncio.to_thread(write_memory, self.paths.modes, memory)
            if problem:
                LOG.error("a restart will not know of the maintenance: %s", problem)

    def _tell_components(self) -> None:
        self.metrics.deciding({loop.decision.component for loop in self._loops if loop.decision})

    def _status(self) -> str:
        parts = [
            f"{loop.device.name} {loop.decision.setpoint_kw:g} kW by {loop.decision.component}"
            for loop in self._loops
            if loop.decision
        ]
        return f"{self.loaded.config.site}: {', '.join(parts) or 'no decision yet'}"

    def _summarise(self) -> None:
        """Log the cycle times, once a minute."""
        for loop in self._loops:
            cycles_s, loop.cycles_s = loop.cycles_s, []
            LOG.info(
                "%s: cycle_time mean=%.3fs max=%.3fs cycles=%d",
                loop.device.name,
                sum(cycles_s) / max(len(cycles_s), 1),
                max(cycles_s, default=0.0),
                len(cycles_s),
            )


def _say_changes(before: Holds, after: Holds) -> None:
    """Log what has begun and what has ended."""
    if after.latch is not None and after.latch != before.latch:
        LOG.warning("emergency stop: latched: %s", after.latch)
    elif after.latch is None and before.latch is not None:
        LOG.info("emergency stop: not latched")
    if after.safe_mode != before.safe_mode:
        LOG.warning("safe mode: %s", "; ".join(cause.reason for cause in after.safe_mode) or "off")
    for name, old, new in (
        ("maintenance", before.maintenance, after.maintenance),
        ("idle", before.idle, after.idle),
        (
            "set-point",
            before.setpoint and f"{before.setpoint.power_kw:g} kW: {before.setpoint.reason}",
            after.setpoint and f"{after.setpoint.power_kw:g} kW: {after.setpoint.reason}",
        ),
    ):
        if old != new:
            LOG.info("%s: %s", name, new or "off")
