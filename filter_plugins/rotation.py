"""Filters over what hosts note while credentials are rotated: stationkeeper.secrets.credentials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from stationkeeper.secrets.credentials import accepted, outcome, proven, retired
except ImportError as error:
    raise ImportError(
        f"{error}: install the package on the control node with `make setup` (pip install -e .)"
    ) from error


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "rotation_accepted": accepted,
            "rotation_outcome": outcome,
            "rotation_proven": proven,
            "rotation_retired": retired,
        }
