"""The stop on the station itself: proof over its own bus, or by its controller's measurements."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from stationkeeper.controller.config import Loaded
from stationkeeper.controller.schema import Battery, Meter
from stationkeeper.modbus.stop import stop_all
from stationkeeper.modbus.stop_evidence import Criteria, Observation, Reading, SiteState, Verification
from stationkeeper.modbus.stop_types import Endpoint, StopOptions, StopResult, Target
from stationkeeper.modbus.stop_verdict import without_answer
from stationkeeper.station.status import Metrics

_KEPT = 10
FetchMetrics = Callable[[], Metrics | None]


@dataclass(frozen=True, slots=True)
class Own:
    """One battery of this station, and the name of its meter in the controller's metrics, if it has one."""

    target: Target
    meter: str | None


def own_batteries(loaded: Loaded, station: str) -> list[Own]:
    """Return the batteries of a controller's configuration, each with the meter that measures it."""
    meters = {meter.measures: meter for meter in loaded.config.devices.meter if meter.measures}
    found = []
    for battery in loaded.config.devices.bess:
        meter = meters.get(battery.name)
        device = _endpoint(loaded, battery)
        measured_by = _endpoint(loaded, meter) if meter else None
        target = Target(station, battery.name, device, measured_by, battery.rating_kw)
        found.append(Own(target, meter.name if meter else None))
    return found


def _endpoint(loaded: Loaded, device: Battery | Meter) -> Endpoint:
    modbus = device.modbus
    return Endpoint(modbus.host, modbus.port, modbus.unit, loaded.profiles[device.profile])


def left_to_controller(target: Target) -> bool:
    """Whether the bus must be left to a living controller: it holds the only session that the device has.

    A second master would throw it out, and with it the heartbeat and the telemetry. Latched, it writes zero
    by itself in its next cycle.
    """
    ends = [end for end in (target.device, target.meter) if end is not None]
    return any(end.profile.max_connections == 1 for end in ends)


async def stop_here(owns: Sequence[Own], options: StopOptions, fetch: FetchMetrics) -> list[StopResult]:
    """Stop the station's own batteries and return one result each, in the order of ``owns``.

    The caller has set the latch. Devices that have a session to spare are written to and proven over Modbus;
    the others, while their controller lives, are proven by what it measures. Never raises for a device.
    """
    controller_lives = await asyncio.to_thread(fetch) is not None
    watched = [controller_lives and left_to_controller(own.target) for own in owns]
    direct = [own.target for own, watch in zip(owns, watched, strict=True) if not watch]
    written, judged = await asyncio.gather(
        stop_all(direct, options),
        asyncio.gather(
            *(watch_controller(own, options, fetch) for own, on in zip(owns, watched, strict=True) if on)
        ),
    )
    by_modbus, by_controller = iter(written), iter(judged)
    return [next(by_controller) if on else next(by_modbus) for on in watched]


async def watch_controller(own: Own, options: StopOptions, fetch: FetchMetrics) -> StopResult:
    """Judge a battery by the samples of its latched controller, fetched from its metrics.

    Waits at most `window_s + hold_s` and the sampling intervals that the samples need.
    """
    target, profile = own.target, own.target.device.profile
    threshold_kw = max(profile.noise_floor_kw, 0.01 * (target.rating_kw or profile.rating_kw))
    meter_kw = max(target.meter.profile.noise_floor_kw, threshold_kw) if target.meter else None
    tolerance_kw = float(profile.verify.tolerance) if profile.verify else 0.0
    check = Verification(Criteria(options.samples, options.hold_s, tolerance_kw, threshold_kw, meter_kw))
    result = StopResult(target.station, target.name, str(target.device), threshold_kw=threshold_kw)
    started, latched = time.monotonic(), False
    end_s: float | None = None
    while True:
        metrics = await asyncio.to_thread(fetch)
        now_s = time.monotonic() - started
        if metrics is not None:
            poll_s = metrics.value("stationkeeper_poll_interval_seconds") or 0.0
            end_s = end_s or options.window_s + options.hold_s + (options.samples + 1) * poll_s
            latched = metrics.value("stationkeeper_emergency_stop_latched") == 1
            seen = _observation(metrics, own, now_s)
            if _is_new(seen, check.last):
                check.observe(seen)
                result.samples = [*result.samples, _shown(seen)][-_KEPT:]
        if (check.verified and latched) or options.dry_run or now_s >= (end_s or options.window_s):
            break
        await asyncio.sleep(options.interval_s)
    _conclude(own, result, check, latched=latched, dry_run=options.dry_run)
    if check.verified and latched:
        result.verified_s = round(now_s, 3)
        result.verified_at = datetime.now(UTC).isoformat(timespec="milliseconds")
    return result


def _observation(metrics: Metrics, own: Own, at_s: float) -> Observation:
    def reading(name: str) -> Reading:
        return Reading(
            metrics.value("stationkeeper_device_power_kw", device=name),
            # A sample's time moves with every fresh answer, as a heartbeat does.
            metrics.value("stationkeeper_last_sample_timestamp_seconds", device=name),
        )

    setpoint_kw = metrics.value("stationkeeper_device_setpoint_kw", device=own.target.name)
    meter = reading(own.meter) if own.meter else None
    return Observation(round(at_s, 3), setpoint_kw, reading(own.target.name), meter)


def _is_new(seen: Observation, last: Observation | None) -> bool:
    """Whether every instrument has a sample that was not judged yet; the metrics repeat the last ones."""
    if last is None:
        return True
    pairs = [(seen.device, last.device)]
    if seen.meter and last.meter:
        pairs.append((seen.meter, last.meter))
    return all(now.heartbeat != then.heartbeat for now, then in pairs)


def _shown(seen: Observation) -> dict[str, Any]:
    shown = {"at_s": seen.at_s, "setpoint_kw": seen.setpoint_kw, "power_kw": seen.device.power_kw}
    return shown | ({"meter_power_kw": seen.meter.power_kw} if seen.meter else {})


def _conclude(own: Own, result: StopResult, check: Verification, *, latched: bool, dry_run: bool) -> None:
    last, fresh = check.last, len(result.samples) > 1
    if last is not None:
        result.setpoint_kw, result.power_kw = last.setpoint_kw, last.device.power_kw
        result.meter_power_kw = last.meter.power_kw if last.meter else None
    if dry_run:
        result.state, result.message = SiteState.PLANNED, "its controller would hold zero and be watched"
    elif not fresh:
        result.errors.append("its controller has no fresh sample of it either")
        result.state, result.message = without_answer(own.target, result, written=False)
    elif not latched:
        result.state, result.message = SiteState.UNKNOWN, "its controller does not say that it is latched"
    elif check.verified:
        result.state = SiteState.VERIFIED_ZERO
        result.message = "zero measured and held, by the samples of its latched controller"
    elif check.power_is_zero:
        result.state = SiteState.READBACK_ONLY
        result.message = "zero by its controller's last samples, not yet for long enough"
    else:
        result.state = SiteState.FAILED
        result.message = f"its latched controller still measures {result.power_kw} kW"
