"""Tuning of a station's controller: the inputs of a run, and the override that comes of them.

The override belongs to the station: it lies over what the inventory says and survives every deployment, until
the same runbook takes the keys away again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from pydantic import ValidationError

from stationkeeper.controller.merge import ConfigError, merge, read_mapping
from stationkeeper.controller.schema import Controller

#: Inputs, and the place in the configuration that each sets.
PLACES: dict[str, tuple[str, ...]] = {
    "poll_interval": ("controller", "poll_interval"),
    "stale_after": ("controller", "stale_after"),
    "batch_size": ("data_platform", "upload", "batch_size"),
    "upload_interval": ("data_platform", "upload", "interval"),
    "log_level": ("logging", "level"),
}


class TuningError(ValueError):
    """The settings cannot be tuned; the text says why, and what to do instead."""


def settings(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of an override that a run's inputs ask for.

    ``settings`` is taken as it is, the named inputs are laid over it, and every name in ``clear`` is set to
    None, which takes the key out of the override. Raises TuningError when nothing or nonsense is asked for.
    """
    wanted: dict[str, Any] = dict(inputs.get("settings") or {})
    cleared = list(inputs.get("clear") or [])
    unknown = [name for name in cleared if name not in PLACES]
    if unknown:
        raise TuningError(f"clear: {', '.join(unknown)} is unknown; known are {', '.join(PLACES)}")
    for name, place in PLACES.items():
        value = inputs.get(name)
        if value is not None and name in cleared:
            raise TuningError(f"{name} is both set and cleared; decide for one")
        if value is not None or name in cleared:
            wanted = merge(wanted, _nested(place, value)) if value is not None else _cleared(wanted, place)
    if not wanted:
        raise TuningError(f"nothing to tune; give one of {', '.join(PLACES)}, settings or clear")
    interval = (wanted.get("controller") or {}).get("poll_interval")
    if interval is not None:
        _duration(interval)
    return wanted


def _nested(place: tuple[str, ...], value: Any) -> dict[str, Any]:
    for key in reversed(place):
        value = {key: value}
    return dict(value)


def _cleared(wanted: dict[str, Any], place: tuple[str, ...]) -> dict[str, Any]:
    first, *rest = place
    under = wanted.get(first)
    inner = _cleared(under if isinstance(under, dict) else {}, tuple(rest)) if rest else None
    return {**wanted, first: inner}


def override(text: str, wanted: Mapping[str, Any], cadence_s: float) -> str:
    """Return the text of a station's override with ``wanted`` laid over it.

    The comment at its head stays; comments within do not. Equal content returns ``text`` as it is. Raises
    TuningError when ``text`` is no override, or when the station would sample less often than its registry
    says.
    """
    present = _parse(text)
    interval = (wanted.get("controller") or {}).get("poll_interval")
    if interval is not None and _duration(interval) > cadence_s:
        raise TuningError(
            f"poll_interval {interval} is longer than the registered cadence of {cadence_s:g} s, so samples "
            "would count as missing; change edge_controller_poll_interval in the inventory and run site.yml "
            "instead"
        )
    tuned = _without_nothing(merge(present, _marked(wanted)))
    if tuned == present:
        return text
    head = [line for line in text.splitlines() if line.startswith("#")]
    return "".join(f"{line}\n" for line in head) + yaml.safe_dump(tuned, sort_keys=False)


_GONE = "\0gone"


def _marked(value: Any) -> Any:
    # `merge` would drop a None at once; here it must first find the key that it takes away.
    if isinstance(value, Mapping):
        return {key: _marked(item) for key, item in value.items()}
    return _GONE if value is None else value


def _without_nothing(value: Any) -> Any:
    """Return the value without what is marked as gone and without maps that became empty by that."""
    if isinstance(value, list):
        return [_without_nothing(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {key: _without_nothing(item) for key, item in value.items() if item != _GONE}
    return {key: item for key, item in kept.items() if item != {} or value[key] == {}}


def _duration(value: object) -> float:
    try:
        return Controller.model_validate({"poll_interval": value}).poll_interval_s
    except ValidationError as error:
        raise TuningError(f"poll_interval: {error.errors()[0]['msg']}") from None


def _parse(text: str) -> dict[str, Any]:
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "override.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            return read_mapping(path)
        except ConfigError as error:
            raise TuningError(str(error).replace(f"{scratch}/", "")) from None
