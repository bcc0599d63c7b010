"""What a check for gaps answers: coverage of each device, and the totals of a window. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from stationkeeper.telemetry.explanations import Gap
from stationkeeper.telemetry.source import Device, rfc3339


@dataclass(frozen=True)
class Coverage:
    """One device: rows expected by its cadence, rows there, and the gaps. The times are the asked span.

    ``gaps`` are those that nobody can explain, ``explained`` the others. ``continued``: the span begins where
    a gap of the ledger does, and nobody looked before it.
    """

    device: Device
    start: datetime
    end: datetime
    expected: int
    present: int
    gaps: tuple[Gap, ...]
    explained: tuple[Gap, ...] = ()
    continued: bool = False

    @property
    def missing(self) -> int:
        """Estimated number of rows in the unexplained gaps."""
        return sum(gap.missing for gap in self.gaps)

    @property
    def explained_missing(self) -> int:
        """Estimated number of rows in the explained gaps."""
        return sum(gap.missing for gap in self.explained)

    @property
    def state(self) -> str:
        """``complete``, ``explained`` (no other gap), ``gaps``, or ``silent``: gaps and not a single row."""
        if not self.gaps:
            return "explained" if self.explained else "complete"
        return "gaps" if self.present else "silent"


@dataclass(frozen=True)
class Report:
    """The answer for a window. ``settled_to`` is where it ended, now minus the settling time at most."""

    start: datetime
    end: datetime
    settled_to: datetime
    k: float
    devices: tuple[Coverage, ...]
    #: Sites that were asked for and have no active device in the window: nothing was looked at there.
    idle_sites: tuple[str, ...] = ()
    #: Spans of the ledger before the window that were looked at again: their rows may have come since.
    rechecked: tuple[Coverage, ...] = ()

    @property
    def gaps(self) -> int:
        """Number of unexplained gaps of all devices."""
        return sum(len(coverage.gaps) for coverage in self.devices)

    @property
    def missing(self) -> int:
        """Estimated number of rows missing in the unexplained gaps of all devices."""
        return sum(coverage.missing for coverage in self.devices)

    @property
    def explained_gaps(self) -> int:
        """Number of explained gaps of all devices."""
        return sum(len(coverage.explained) for coverage in self.devices)

    @property
    def explained_missing(self) -> int:
        """Estimated number of rows missing in the explained gaps of all devices."""
        return sum(coverage.explained_missing for coverage in self.devices)

    def of_site(self, site: str) -> list[Coverage]:
        """Return the devices of one site."""
        return [coverage for coverage in self.devices if coverage.device.site == site]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data with times as RFC 3339 text in UTC."""
        return {
            "from": rfc3339(self.start),
            "to": rfc3339(self.end),
            "settled_to": rfc3339(self.settled_to),
            "k": self.k,
            "gaps": self.gaps,
            "missing": self.missing,
            "explained_gaps": self.explained_gaps,
            "explained_missing": self.explained_missing,
            "expected": sum(coverage.expected for coverage in self.devices),
            "present": sum(coverage.present for coverage in self.devices),
            "idle_sites": list(self.idle_sites),
            "devices": [
                {
                    **asdict(coverage.device),
                    "from": rfc3339(coverage.start),
                    "to": rfc3339(coverage.end),
                    "state": coverage.state,
                    "expected": coverage.expected,
                    "present": coverage.present,
                    "missing": coverage.missing,
                    "explained_missing": coverage.explained_missing,
                    "gaps": [gap.as_dict() for gap in coverage.gaps],
                    "explained": [gap.as_dict() for gap in coverage.explained],
                }
                for coverage in self.devices
            ],
        }
