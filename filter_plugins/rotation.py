"""Filters over what hosts note while credentials are rotated: stationkeeper.secrets.credentials."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

try:
    import stationkeeper  # noqa: F401 (only to say at once how to install it)
except ImportError as error:
    raise ImportError(
        f"{error}: install the package on the control node with `make setup` (pip install -e .)"
    ) from error


def rotation_accepted(found: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Return the credentials that every server accepts twice."""
    from stationkeeper.secrets.credentials import accepted

    return accepted(found, facts)


def rotation_proven(found: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Return the credentials that every client has proven."""
    from stationkeeper.secrets.credentials import proven

    return proven(found, facts)


def rotation_retired(found: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Return the credentials whose value before every server refuses."""
    from stationkeeper.secrets.credentials import retired

    return retired(found, facts)


def rotation_outcome(found: Mapping[str, Any], facts: Mapping[str, Any], host: str) -> dict[str, str]:
    """Return status and message of a host."""
    from stationkeeper.secrets.credentials import outcome

    return outcome(host, found, facts)


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "rotation_accepted": rotation_accepted,
            "rotation_outcome": rotation_outcome,
            "rotation_proven": rotation_proven,
            "rotation_retired": rotation_retired,
        }
