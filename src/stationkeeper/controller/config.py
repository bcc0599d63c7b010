"""Loads and validates the controller's configuration, and keeps what stays in force when a new one is bad."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from stationkeeper.controller.automatic import decision_interval_s
from stationkeeper.controller.merge import ConfigError, locate, merge, read_mapping
from stationkeeper.controller.schema import Battery, Config, Database
from stationkeeper.files import write_atomically
from stationkeeper.profiles.load import ProfileError, load_profile
from stationkeeper.profiles.schema import Profile


@dataclass(frozen=True)
class Loaded:
    """A configuration in force. ``problems`` says why the files are not it, empty when they are."""

    config: Config
    profiles: dict[str, Profile]
    hash: str
    document: dict[str, Any]
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Files:
    """Paths of the controller's files."""

    config: Path
    override: Path
    database: Path
    profiles: Path
    last_good: Path

    @classmethod
    def at(cls, config_dir: Path, state_dir: Path) -> Files:
        """Return the usual names in a configuration and a state directory."""
        return cls(
            config_dir / "config.yaml",
            config_dir / "override.yaml",
            config_dir / "database.yaml",
            config_dir / "profiles",
            state_dir / "last_good.yaml",
        )


def load(config: Path, override: Path | None = None, profiles: Path | None = None) -> Loaded:
    """Read, merge and validate the files (an absent override is an empty one). Raises ConfigError."""
    base = read_mapping(config)
    over = read_mapping(override, may_be_absent=True) if override else {}
    merged = merge(base, over)
    try:
        validated = Config.model_validate(merged)
    except ValidationError as error:
        problems = []
        for entry in error.errors(include_url=False):
            steps, message = _explain(entry, merged)
            source = override if override and locate(over, steps, merged) else config
            problems.append(f"{source}: {_spell(steps, merged)}{message}")
        raise ConfigError(problems) from None
    search = [profiles] if profiles else []
    return Loaded(validated, _profiles(validated, search, str(config)), digest(merged), merged)


def load_database(path: Path) -> Database:
    """Read the connection settings. Raises ConfigError, whose message never quotes a value."""
    content = read_mapping(path)
    try:
        return Database.model_validate(content)
    except ValidationError as error:
        entries = [_explain(entry, content) for entry in error.errors(include_url=False, include_input=False)]
        raise ConfigError([f"{path}: {_spell(steps, content)}{text}" for steps, text in entries]) from None


def load_or_last_good(files: Files) -> Loaded:
    """Load the files; when they are invalid, the last good configuration with ``problems`` set.

    Raises ConfigError when there is no last good one either.
    """
    try:
        return load(files.config, files.override, files.profiles)
    except ConfigError as error:
        problems = error.problems
    try:
        kept = read_mapping(files.last_good)
        config = Config.model_validate(kept["config"])
        devices = (*config.devices.bess, *config.devices.meter)
        profiles = {d.profile: Profile.model_validate(kept["profiles"][d.profile]) for d in devices}
    except (ConfigError, ValidationError, KeyError, AttributeError, TypeError):
        raise ConfigError(
            [
                *problems,
                f"{files.last_good}: no last good configuration to fall back to; correct the files above",
            ]
        ) from None
    return Loaded(config, profiles, digest(kept["config"]), kept["config"], problems)


def keep_as_last_good(loaded: Loaded, path: Path) -> None:
    """Store a valid configuration with its profiles durably for the next start. Raises OSError."""
    profiles = {name: profile.model_dump(mode="json") for name, profile in loaded.profiles.items()}
    text = yaml.safe_dump({"config": loaded.document, "profiles": profiles}, sort_keys=False)
    if path.exists() and path.read_bytes() == text.encode():
        return
    write_atomically(path, text)


def digest(document: dict[str, Any]) -> str:
    """Return the hash of a merged configuration: the first 16 hex digits of SHA-256 over canonical JSON."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _profiles(config: Config, search: Sequence[Path], source: str) -> dict[str, Profile]:
    found: dict[str, Profile] = {}
    problems = []
    for kind, devices in (("bess", config.devices.bess), ("meter", config.devices.meter)):
        for device in devices:
            where = f"{source}: devices.{kind}[{device.name}].profile"
            try:
                profile = load_profile(device.profile, search)
            except ProfileError as error:
                problems.append(f"{where}: {error}")
                continue
            if profile.device_type != kind:
                problems.append(
                    f"{where}: '{device.profile}' describes a {profile.device_type}, not a {kind}"
                )
            found[device.profile] = profile
            if isinstance(device, Battery) and device.writes_enabled:
                problems += _wear(config, device, profile, where)
    if problems:
        raise ConfigError(problems)
    return found


def _wear(config: Config, battery: Battery, profile: Profile, where: str) -> list[str]:
    """Refuse to write a battery's registers more often than they bear."""
    interval_s = decision_interval_s(profile, config.controller.poll_interval_s)
    if interval_s >= profile.min_write_interval_s:
        return []
    return [
        f"{where}: '{profile.name}' bears a set-point every {profile.min_write_interval_s:g} s, and "
        f"{battery.name} would get one every {interval_s:g} s; use a longer controller.poll_interval"
    ]


def _explain(entry: Any, merged: Any) -> tuple[list[str | int], str]:
    """Return the place of a validation error without union tags, and its sentence."""
    steps: list[str | int] = []
    here = merged
    for part in entry["loc"]:
        in_list = isinstance(here, list) and isinstance(part, int) and part < len(here)
        if in_list or (isinstance(here, dict) and part in here):
            here = here[part]
        elif isinstance(here, dict) and here.get("type") == part:
            continue
        else:
            here = None
        steps.append(part)
    if entry["type"] == "unknown_key":
        steps.append(entry["ctx"]["key"])
    text = str(entry["msg"]).removeprefix("Value error, ")
    if entry["type"] == "missing":
        text = "is missing; add it"
    return steps, text


def _spell(steps: Sequence[str | int], merged: Any) -> str:
    """Write a place as ``devices.bess[WLCE-BESS-01].modbus.unit: ``; nothing for the whole document."""
    text = ""
    here = merged
    for step in steps:
        if isinstance(here, list) and isinstance(step, int) and step < len(here):
            here = here[step]
            label = (
                here.get("name") or here.get("type") or here.get("id") or step
                if isinstance(here, dict)
                else step
            )
            text += f"[{label}]"
        else:
            text += f".{step}" if text else str(step)
            here = here.get(step) if isinstance(here, dict) else None
    return f"{text}: " if text else ""
