"""What a fleet stop is asked and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from stationkeeper.modbus.stop_evidence import SiteState
from stationkeeper.profiles.schema import Profile


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One unit behind one Modbus TCP address."""

    host: str
    port: int
    unit: int
    profile: Profile

    def __str__(self) -> str:
        return f"unit {self.unit} at {self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Target:
    """A device to stop, the meter that proves it (if any), and its rating where it is not the profile's."""

    station: str
    name: str
    device: Endpoint
    meter: Endpoint | None = None
    rating_kw: float | None = None


@dataclass(frozen=True, slots=True)
class StopOptions:
    """`window_s`: time to reach zero. `hold_s`: how long it must stay, at least two cycles of any master.

    `samples` consecutive fresh samples, `interval_s` apart (1 ms for each device where that is more), make a
    zero. `dry_run` reads and plans, and
    sends no write.
    """

    window_s: float = 15.0
    hold_s: float = 5.0
    samples: int = 3
    interval_s: float = 0.5
    connect_timeout_s: float = 2.0
    response_timeout_s: float = 2.0
    dry_run: bool = False


@dataclass(slots=True)
class StopResult:
    """What became of one device. Times `_s` are seconds from the start, `_at` is UTC in RFC 3339.

    `changed`: it did not stand at zero before, as far as the first look after the zero write can tell,
    or it is not proven to stand at zero now. `before` is that first look. `writes` are those that left (in
    a dry run, would leave), `samples` and `errors` the last ones. `expected_zero_by` is when a device that
    nobody reaches stands at zero by its own dead-man, if its controller is silent or latched.
    """

    station: str
    name: str
    endpoint: str
    state: SiteState = SiteState.UNKNOWN
    message: str = ""
    changed: bool = False
    contended: bool = False
    first_write_s: float | None = None
    first_write_at: str | None = None
    verified_s: float | None = None
    verified_at: str | None = None
    expected_zero_by: str | None = None
    threshold_kw: float = 0.0
    setpoint_kw: float | None = None
    power_kw: float | None = None
    meter_power_kw: float | None = None
    before: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    writes: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
