"""What one battery's decision depends on, put together from devices, holds and settings."""

from __future__ import annotations

from collections.abc import Sequence

from stationkeeper.controller.automatic import Input, causes, missing_values, stays_at_zero_unwritten
from stationkeeper.controller.components import Situation
from stationkeeper.controller.device import Device
from stationkeeper.controller.modes import Cause, Holds
from stationkeeper.controller.schema import Battery, Controller, Meter


class Outlook:
    """One battery's view of its station."""

    def __init__(self, device: Device, controller: Controller, station: Sequence[Device]) -> None:
        """``station`` is all of its devices, this one too."""
        self.safe_mode: tuple[Cause, ...] = ()
        self._device = device
        self._controller = controller
        self._batteries = [each for each in station if isinstance(each.config, Battery)]
        meters = [(each, each.config) for each in station if isinstance(each.config, Meter)]
        self._meters = [each for each, config in meters if config.measures == device.name]
        grid_meter = controller.limits.grid_meter if controller.limits else None
        self._grid = next((each for each, config in meters if config.name == grid_meter), None)

    @property
    def _share(self) -> float:
        """This battery's part of what concerns the whole site: by rating, among those that are commanded."""
        ratings = {
            each.name: each.config.rating_kw
            for each in self._batteries
            if isinstance(each.config, Battery) and each.config.writes_enabled
        }
        return ratings[self._device.name] / sum(ratings.values())

    @property
    def ramp_kw_per_s(self) -> float | None:
        """The battery's own limit, or its part of the site's; the tighter one."""
        battery, site = self._device.config, self._controller.max_ramp_kw_per_s
        own = battery.max_ramp_kw_per_s if isinstance(battery, Battery) else None
        limits = [own] if own is not None else []
        limits += [site * self._share] if site is not None else []
        return min(limits, default=None)

    def measured(self) -> None:
        """Take in that the device has a new sample."""
        device = self._device
        if device.latest is None or not isinstance(device.config, Battery):
            return
        oldest_s = device.latest.monotonic_s - self._controller.freshness_s
        fresh = [each for each in self._meters if each.latest and each.latest.monotonic_s > oldest_s]
        powers = [_power(device), *(_power(meter) for meter in fresh)]
        device.zero.measured(device.latest.values.get(device.profile.heartbeat), powers)

    def writes_blocked(self, holds: Holds) -> bool:
        """Tell whether maintenance has come to its proven zero, after which only a stop writes."""
        maintained = holds.maintenance is not None and holds.latch is None
        maintained = maintained and stays_at_zero_unwritten(self._device.profile)
        # Once proven it stays blocked: whoever works at the device may move its set-point.
        self._device.blocked = maintained and (self._device.blocked or self._device.zero.verified)
        return self._device.blocked

    def situation(self, battery: Battery, holds: Holds, now_s: float) -> Situation:
        """Return what the decision at this moment depends on."""
        device, profile = self._device, self._device.profile
        if profile.limits is None:
            raise ValueError(f"profile {profile.name} has no limits")
        found = device.automatic.update(now_s, causes(self._inputs(now_s)))
        self.safe_mode = holds.safe_mode + ((found,) if found else ())
        share, setpoint = self._share, holds.setpoint
        power_kw, reason = (setpoint.power_kw * share, setpoint.reason) if setpoint else (None, "")
        if setpoint is not None and found is not None:
            device.spent = setpoint.mark
        if setpoint is not None and setpoint.mark == device.spent:
            power_kw, reason = 0.0, "the set-point is older than the last safe mode: 0 kW until a fresh one"
        values = device.latest.values if device.latest else {}
        return Situation(
            rating_kw=battery.rating_kw,
            device_limits=profile.limits,
            latch=holds.latch,
            site_limits=self._controller.limits,
            maintenance=self._maintenance(holds),
            safe_mode="; ".join(cause.reason for cause in self.safe_mode) or None,
            idle=holds.idle,
            setpoint_kw=power_kw,
            setpoint_reason=reason,
            to_soe=self._controller.to_soe,
            soe_percent=values.get("soe_percent"),
            other_kw=self._other_kw(),
            share=share,
        )

    def _inputs(self, now_s: float) -> list[Input]:
        # A neighbour's power counts only where the site's exchange with the grid is limited.
        devices = [self._device] if self._grid is None else [*self._batteries, self._grid]
        found = []
        for each in devices:
            needed = [each.profile.measured_power] + (["soe_percent"] if each is self._device else [])
            latest, limit_s = each.latest, self._controller.freshness_of(each.config)
            if latest is None:
                found.append(Input(each.name, None, limit_s, None, identity=each.identity))
                continue
            has_heartbeat = latest.values.get(each.profile.heartbeat) is not None
            found.append(
                Input(
                    each.name,
                    now_s - latest.monotonic_s,
                    limit_s,
                    now_s - latest.heartbeat_s if has_heartbeat else None,
                    missing_values(latest.values, needed),
                    each.identity,
                    each.local,
                )
            )
        return found

    def _other_kw(self) -> float | None:
        if self._grid is None:
            return None
        grid_kw, powers_kw = _power(self._grid), [_power(each) for each in self._batteries]
        known_kw = [power for power in powers_kw if power is not None]
        return None if grid_kw is None or len(known_kw) < len(powers_kw) else grid_kw - sum(known_kw)

    def _maintenance(self, holds: Holds) -> str | None:
        """Return why maintenance holds; it is not left while the battery has an alarm."""
        if holds.maintenance is not None:
            self._device.maintained = True
            return holds.maintenance
        if not self._device.maintained:
            return None
        alarms = self._device.latest.values.get("alarms") if self._device.latest else None
        if alarms:
            return f"maintenance is not left: the battery has alarms ({int(alarms):#x})"
        self._device.maintained = False
        return None


def _power(device: Device) -> float | None:
    return device.latest.values.get(device.profile.measured_power) if device.latest else None
