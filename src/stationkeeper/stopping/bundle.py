"""The stop bundle: everything that a stop needs, in one file that was written at the last deploy.

With it a stop needs neither Ansible nor an inventory plugin nor the database. It holds addresses, profiles,
contacts and ssh settings, and no secret: of the ssh key only the path.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stationkeeper.files import write_atomically
from stationkeeper.modbus.stop_types import Endpoint, Target
from stationkeeper.profiles.load import ProfileError, load_profile, parse_profile
from stationkeeper.profiles.schema import Profile
from stationkeeper.station.stopping import stop_targets

VERSION = 1


class BundleError(Exception):
    """The bundle cannot be made, read or used; the message says why and what to do."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Ssh(_Strict):
    """How the control node logs in. ``options`` are further words of the ssh command line."""

    host: str = Field(min_length=1)
    port: int = Field(default=22, ge=1, le=65535)
    user: str = ""
    key_file: str = ""
    options: tuple[str, ...] = ()


class End(_Strict):
    """One unit behind one Modbus TCP address; ``profile`` names an entry of the bundle's profiles."""

    host: str
    port: int = Field(default=502, ge=1, le=65535)
    unit: int = Field(ge=1, le=255)
    profile: str


class Device(End):
    """One battery and the meter that proves it."""

    station: str
    name: str
    rating_kw: float | None = Field(default=None, gt=0)
    meter: End | None = None


class Station(_Strict):
    """One station: its batteries, how to log in, whom to call."""

    devices: tuple[Device, ...] = Field(min_length=1)
    ssh: Ssh
    contact: str = ""


class Bundle(_Strict):
    """The whole file. ``written_at`` (UTC, RFC 3339) is when its content last changed."""

    version: int = Field(ge=VERSION, le=VERSION)
    system: str = Field(min_length=1)
    written_at: str
    stations: dict[str, Station] = Field(min_length=1)
    groups: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    profiles: dict[str, dict[str, Any]]

    def select(self, pattern: str) -> list[str]:
        """Return the stations of a comma-separated list of stations, groups, shell patterns or `all`.

        `!name` takes away, as in Ansible. Raises BundleError for a word that matches nothing: a misspelt
        station must never be left out in silence.
        """
        chosen: dict[str, None] = {}
        for word in (word.strip() for word in pattern.split(",")):
            if not word:
                continue
            found = self._match(word.removeprefix("!"))
            if not found:
                known = ", ".join([*self.stations, *self.groups])
                raise BundleError(f"target {word!r} matches no station of {self.system}; known: {known}")
            for name in found:
                if word.startswith("!"):
                    chosen.pop(name, None)
                else:
                    chosen[name] = None
        if not chosen:
            raise BundleError(f"target {pattern!r} selects no station; nothing would be stopped")
        return [name for name in self.stations if name in chosen]

    def _match(self, word: str) -> list[str]:
        if word == "all":
            return list(self.stations)
        members = self.groups.get(word)
        if members is not None:
            return [name for name in members if name in self.stations]
        return fnmatch.filter(self.stations, word)

    def targets(self, name: str) -> list[Target]:
        """Return the batteries of one station for the direct path. Raises BundleError."""
        return [
            Target(
                name,
                device.name,
                self._endpoint(device),
                self._endpoint(device.meter) if device.meter else None,
                device.rating_kw,
            )
            for device in self.stations[name].devices
        ]

    def _endpoint(self, end: End) -> Endpoint:
        return Endpoint(end.host, end.port, end.unit, self._profile(end.profile))

    def _profile(self, name: str) -> Profile:
        if name not in self.profiles:
            raise BundleError(f"the bundle holds no profile {name!r}; write it anew with playbooks/site.yml")
        try:
            return parse_profile(self.profiles[name], f"profile {name} of the stop bundle")
        except ProfileError as error:
            raise BundleError(str(error)) from None


def station_entry(name: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return one station of the bundle from its inventory variables. Raises BundleError.

    Ansible's connection variables are read as Ansible does; passwords among them are left out.
    """
    try:
        devices = stop_targets(name, variables.get("station_devices") or [])
        port = int(variables.get("ansible_port") or 22)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{name}: declared wrongly ({type(error).__name__}: {error})") from None
    if not devices:
        raise BundleError(f"{name}: the inventory declares no battery here")
    return {
        "devices": devices,
        "ssh": {
            "host": str(variables.get("ansible_host") or name),
            "port": port,
            "user": str(variables.get("ansible_user") or ""),
            "key_file": str(variables.get("ansible_ssh_private_key_file") or ""),
            "options": shlex.split(str(variables.get("ansible_ssh_common_args") or "")),
        },
        "contact": str(variables.get("station_contact") or ""),
    }


def build(
    system: str,
    stations: Mapping[str, Mapping[str, Any]],
    groups: Mapping[str, Sequence[str]],
    profile_path: Sequence[str],
    now: str,
) -> Bundle:
    """Return a checked bundle; every profile that a station names is put into it. Raises BundleError."""
    named = {
        str(end["profile"])
        for station in stations.values()
        for device in station.get("devices", ())
        for end in (device, device.get("meter"))
        if end
    }
    try:
        profiles = {
            name: load_profile(name, profile_path).model_dump(mode="json", exclude_unset=True)
            for name in sorted(named)
        }
    except ProfileError as error:
        raise BundleError(str(error)) from None
    content = {
        "version": VERSION,
        "system": system,
        "written_at": now,
        "stations": dict(stations),
        "groups": {name: list(members) for name, members in groups.items()},
        "profiles": profiles,
    }
    bundle = _validate(content, f"the bundle of {system}")
    for name in bundle.stations:
        bundle.targets(name)
    return bundle


def read_bundle(path: Path) -> Bundle:
    """Return the bundle in a file. Raises BundleError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path}: there is no stop bundle; playbooks/site.yml writes it") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: cannot be read ({error}); playbooks/site.yml writes it anew") from None
    return _validate(content, str(path))


def write_bundle(path: Path, bundle: Bundle, *, dry_run: bool = False) -> tuple[bool, str]:
    """Put the bundle in place durably (0600) unless its content stands there; return whether, and what stood.

    What stood is its text, empty when there was none. Raises OSError.
    """
    try:
        before = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        before = ""
    if before and _without_time(before) == _without_time(bundle.model_dump_json()):
        return False, before
    if dry_run:
        return True, before
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, bundle.model_dump_json(indent=2) + "\n")
    return True, before


def outline(text: str) -> str:
    """Return a bundle's text with each profile as a digest, for people to compare; empty for none."""
    content = _without_time(text)
    if content is None:
        return text
    content["profiles"] = {
        name: hashlib.sha256(json.dumps(profile, sort_keys=True).encode()).hexdigest()[:12]
        for name, profile in content.get("profiles", {}).items()
    }
    return json.dumps(content, indent=2) + "\n"


def only_bundle(directory: Path) -> Path:
    """Return the bundle of a state directory that has just one. Raises BundleError."""
    found = sorted(directory.glob("*.json"))
    if len(found) == 1:
        return found[0]
    if not found:
        raise BundleError(f"{directory} holds no stop bundle; playbooks/site.yml writes it")
    raise BundleError(f"name the system with --bundle: {', '.join(str(path) for path in found)}")


def _without_time(text: str) -> Any:
    try:
        content = json.loads(text)
        content.pop("written_at", None)
    except (ValueError, AttributeError):
        return None
    return content


def _validate(content: Any, source: str) -> Bundle:
    try:
        return Bundle.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise BundleError(f"{source}: {place}: {first['msg']}; playbooks/site.yml writes it anew") from None
