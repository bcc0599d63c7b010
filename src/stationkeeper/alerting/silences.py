"""Silences of Alertmanager: which one is wanted, which of those there are is it. Pure logic.

Source of the forms: Alertmanager's API v2 (api/v2/openapi.yaml).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

#: Whose silences are found again; one that a person made stays that person's.
AUTHOR = "stationkeeper"
LONGEST = timedelta(days=7)
#: A silence that ends so much earlier than wanted is as good as wanted.
_SLACK = timedelta(minutes=1)

Matcher = dict[str, Any]


class SilenceError(ValueError):
    """A wish that makes no sense; the message says what does."""


@dataclass(frozen=True)
class Wish:
    """What shall be silent: alerts with ``label`` = ``value``, of these names (all when empty).

    Critical ones only where ``critical`` says so, or where they are named.
    """

    label: str
    value: str
    alerts: tuple[str, ...] = ()
    critical: bool = False

    def matchers(self) -> list[Matcher]:
        """Return the matchers in Alertmanager's form."""
        wanted = [_matcher(self.label, self.value)]
        if self.alerts:
            names = "|".join(re.escape(name) for name in sorted(set(self.alerts)))
            wanted.append(_matcher("alertname", names) | {"isRegex": True})
        elif not self.critical:
            wanted.append(_matcher("severity", "critical") | {"isEqual": False})
        return wanted


def _matcher(name: str, value: str) -> Matcher:
    return {"name": name, "value": value, "isRegex": False, "isEqual": True}


def until(now: datetime, hours: float) -> datetime:
    """Return when a silence of so many hours ends. Raises SilenceError."""
    length = timedelta(hours=hours)
    if not timedelta() < length <= LONGEST:
        raise SilenceError(f"hours is more than 0 and at most {LONGEST.days * 24}, not {hours}")
    return now + length


def found(silences: Iterable[Mapping[str, Any]], matchers: Sequence[Matcher]) -> list[Mapping[str, Any]]:
    """Return our silences that are in force with exactly these matchers."""
    wanted = _key(matchers)
    return [one for one in _ours(silences) if _key(one["matchers"]) == wanted]


def of(silences: Iterable[Mapping[str, Any]], label: str, value: str) -> list[Mapping[str, Any]]:
    """Return our silences in force of a label's value, whatever else they match."""
    wanted = _key([_matcher(label, value)])
    return [one for one in _ours(silences) if wanted <= _key(one["matchers"])]


def _ours(silences: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the silences in force that were not made by a person."""
    return [
        one
        for one in silences
        if one["status"]["state"] == "active" and one["createdBy"].startswith(f"{AUTHOR} ")
    ]


def long_enough(silence: Mapping[str, Any], end: datetime) -> bool:
    """Whether a silence ends when it is wanted, or later."""
    return ends_at(silence) >= end - _SLACK


def ends_at(silence: Mapping[str, Any]) -> datetime:
    """Return when a silence ends."""
    return datetime.fromisoformat(str(silence["endsAt"])).astimezone(UTC)


def body(
    matchers: Sequence[Matcher], now: datetime, end: datetime, *, who: str, why: str, id: str = ""
) -> dict[str, Any]:
    """Return what is sent to Alertmanager; with an id that silence is prolonged."""
    made = {
        "matchers": list(matchers),
        "startsAt": now.astimezone(UTC).isoformat(),
        "endsAt": end.astimezone(UTC).isoformat(),
        "createdBy": f"{AUTHOR} {who}",
        "comment": why,
    }
    return made | ({"id": id} if id else {})


def silenced(alerts: Iterable[Mapping[str, Any]], id: str) -> list[str]:
    """Return the names of the alerts that a silence holds back now."""
    names = {one["labels"]["alertname"] for one in alerts if id in one["status"]["silencedBy"]}
    return sorted(names)


def _key(matchers: Iterable[Mapping[str, Any]]) -> set[tuple[str, str, bool, bool]]:
    return {
        (one["name"], one["value"], bool(one["isRegex"]), bool(one.get("isEqual", True))) for one in matchers
    }
