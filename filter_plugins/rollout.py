"""Jinja filters for staged rollouts and for tuning. What takes long to load is imported where it is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

try:
    import stationkeeper  # noqa: F401 (only to say at once how to install it)
except ImportError as error:
    raise ImportError(
        f"{error}: install the package on the control node with `make setup` (pip install -e .)"
    ) from error


def rollout_version(repository: str) -> str:
    """Return the content id of the package in a repository."""
    from stationkeeper.station import wheelhouse

    try:
        return wheelhouse.content_id(Path(repository))
    except wheelhouse.WheelhouseError as error:
        raise AnsibleFilterError(f"rollout_version: {error}") from error


def rollout_settings(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an override that a run's inputs ask for."""
    from stationkeeper.rollout import tuning

    try:
        return tuning.settings(_plain(inputs))
    except ValueError as error:
        raise AnsibleFilterError(f"nothing was touched: {error}") from error


def rollout_override(text: str, wanted: Mapping[str, Any], cadence_s: float) -> str:
    """Return a station's override with the wanted settings laid over it."""
    from stationkeeper.rollout import tuning

    try:
        return tuning.override(str(text), _plain(wanted), float(cadence_s))
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


def _plain(value: Any) -> Any:
    """Ansible's tagged and lazy values as plain Python ones."""
    return json.loads(json.dumps(value, default=dict))


class FilterModule:
    """The filters by name."""

    def filters(self) -> dict[str, Any]:
        """Return the filters."""
        return {
            "rollout_version": rollout_version,
            "rollout_settings": rollout_settings,
            "rollout_override": rollout_override,
        }
