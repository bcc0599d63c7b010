"""Jinja filters for drills. What takes long to load is imported where it is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError


def drill_states(
    lines: Iterable[str], schedule: Iterable[Mapping[str, Any]], now: float
) -> list[dict[str, Any]]:
    """Return the state of each scheduled drill, from the samples that drills leave on a hub."""
    try:
        from stationkeeper.drills import schedule as drills
    except ImportError as error:
        raise AnsibleFilterError(
            f"{error}: install the package on the control node with `make setup` (pip install -e .)"
        ) from error
    try:
        return drills.states(list(lines), [dict(entry) for entry in schedule], float(now))
    except ValueError as error:
        raise AnsibleFilterError(
            f"drill_states: the figures of the drills cannot be read: {error}"
        ) from error


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"drill_states": drill_states}
