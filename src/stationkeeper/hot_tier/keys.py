"""Names, life and form of what lies in the hot tier."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

WINDOW = timedelta(hours=24)
# A refresher that died leaves its values behind; they must not look like telemetry for ever.
TTL_S = 26 * 3600
# What a killed run was building is removed by the next run, or at the latest after this time.
BUILDING_TTL_S = 3600

_EPOCH = datetime.fromtimestamp(0, UTC)
_KINDS = ("latest", "timeseries")
_GLOB = re.compile(r"([*?\[\]\\^-])")


@dataclass(frozen=True)
class Names:
    """The keys of one system, which is the first part of all of them."""

    system: str

    @property
    def metrics(self) -> str:
        """Hash: figures of the last hour over all devices."""
        return f"{self.system}:system:metrics:1h"

    @property
    def refreshed(self) -> str:
        """Hash: the last whole refresh, written when everything else was."""
        return f"{self.system}:cache:refreshed"

    def latest(self, device: str) -> str:
        """Hash: the newest row of a device, whatever its age."""
        return f"{self.system}:node:{device}:latest"

    def timeseries(self, device: str) -> str:
        """Sorted set: the rows of the last 24 hours, score = milliseconds since 1970."""
        return f"{self.system}:node:{device}:timeseries"

    def building(self, key: str, run: str) -> str:
        """Where a run makes the next value of a key; the braces keep both in one slot of a cluster."""
        return f"{self.system}:building:{run}:{{{key}}}"

    def patterns(self) -> dict[str, str]:
        """Return what is the hot tier's own, as globs for SCAN."""
        system = _GLOB.sub(r"\\\1", self.system)
        return {
            "latest": f"{system}:node:*:latest",
            "timeseries": f"{system}:node:*:timeseries",
            "metrics": f"{system}:system:metrics:1h",
            "refreshed": f"{system}:cache:refreshed",
            "building": f"{system}:building:*",
        }

    def pattern_of(self, key: str) -> str | None:
        """Return the name of the pattern that a key belongs to; None when it is not the hot tier's."""
        if key in (self.metrics, self.refreshed):
            return "metrics" if key == self.metrics else "refreshed"
        if key.startswith(f"{self.system}:building:"):
            return "building"
        return key.rpartition(":")[2] if self.device_of(key) is not None else None

    def device_of(self, key: str) -> str | None:
        """Return the device that a key is of; None when it is of none."""
        head, _, kind = key.rpartition(":")
        start = f"{self.system}:node:"
        return head[len(start) :] if kind in _KINDS and head.startswith(start) and head != start else None


def decode(member: str, fields: Sequence[str]) -> tuple[datetime, dict[str, float | None]]:
    """Return time and values of a member of a time series.

    A member is the row's time in microseconds since 1970, hexadecimal, and the values of ``fields`` in
    their order, separated by commas; nothing stands for null, and nulls at the end are left out.
    """
    stamp, *texts = member.split(",")
    texts += [""] * (len(fields) - len(texts))
    return _EPOCH + timedelta(microseconds=int(stamp, 16)), {
        name: float(text) if text else None for name, text in zip(fields, texts, strict=True)
    }


def milliseconds(time: datetime) -> int:
    """Return whole milliseconds since 1970, rounded down: the score of a row of that time."""
    return (time - _EPOCH) // timedelta(milliseconds=1)


def moment(score: int) -> datetime:
    """Return the time of a score."""
    return _EPOCH + timedelta(milliseconds=score)
