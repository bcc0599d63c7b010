"""Deploy a configuration or a package version on a station: check, prepare, switch under the health gate.

Runs on the station with nothing but its python3 (standard library only).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import config_release, controlled, release, trial
from .config_release import Content
from .controlled import Change, Checked, Controller, SwitchError

CONFIG_DIRECTORY = Path("/etc/bess_controller")


@dataclass(frozen=True)
class Deployed:
    """What a deployment did, or would do: releases before and after, and the evidence of the gate."""

    changed: bool
    before: str
    after: str
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Station:
    """Where a station's files are. ``journal`` holds markers and journals of both kinds of release."""

    config: Path = CONFIG_DIRECTORY
    package: Path = Path("/opt/stationkeeper")
    journal: Path = trial.DIRECTORY

    @property
    def program(self) -> Path:
        """The package's program that is in force."""
        return self.package / "venv" / "bin" / "stationkeeper"

    def slot(self, name: str) -> trial.Slot:
        """Return the slot of the configuration or of the package."""
        link = self.package / "venv" if name == controlled.PACKAGE else self.config / config_release.CURRENT
        return trial.Slot(name, link, self.journal)


def check_content(program: Path, content: Content) -> Checked:
    """Validate a configuration that is nowhere yet. Raises SwitchError."""
    with tempfile.TemporaryDirectory(prefix="stationkeeper-config-") as scratch:
        for name, text in content.files().items():
            path = Path(scratch) / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        try:
            return _check_directory(program, Path(scratch))
        except SwitchError as error:
            raise SwitchError(str(error).replace(f"{scratch}/", "")) from None


def _check_directory(program: Path, directory: Path) -> Checked:
    return controlled.check(
        program,
        directory / config_release.CONFIG_NAME,
        directory / config_release.OVERRIDE_NAME,
        directory / config_release.PROFILES_NAME,
    )


def deploy_config(
    station: Station, wanted: Content, controller: Controller, *, group: str, keep: int, dry_run: bool
) -> Deployed:
    """Put a configuration in force.

    Nothing changes when it is in force and proven. Raises SwitchError (refused, or put back),
    ConfigReleaseError or OSError.
    """
    directory, slot = station.config, station.slot(controlled.CONFIG)
    present = config_release.read(directory)
    before = present.identity if present and present.config else ""
    unproven = trial.pending(slot) is not None
    settled = config_release.settled(directory) == wanted.identity
    if settled and not unproven:
        return Deployed(False, before, wanted.identity)
    after = check_content(station.program, wanted)
    if dry_run:
        return Deployed(True, before, wanted.identity, {"config_hash": after.config_hash})
    config_release.adopt(directory, group)
    config_release.prepare(directory, wanted, group)
    target = f"{config_release.RELEASES}/{wanted.identity}"
    evidence = {"config_hash": after.config_hash}
    if not before:
        trial.point(slot.link, target)
        config_release.link_names(directory)
        trial.record(slot, "installed", "the first configuration", release=target)
    elif before != wanted.identity or unproven:
        old = _old_config(station, slot, after)
        change = Change(slot, target, after, old, restart=old.start_hash != after.start_hash)
        evidence |= controlled.switch(controller, change)
    config_release.prune(directory, keep, evidence.get("before", target))
    return Deployed(True, before, wanted.identity, evidence)


def _old_config(station: Station, slot: trial.Slot, after: Checked) -> Checked:
    """What the way back holds. One that is not valid (edited in place) is nothing that could be proven."""
    started = trial.pending(slot)
    back = started.before if started else trial.target(slot.link)
    try:
        return _check_directory(station.program, slot.link.parent / str(back))
    except SwitchError:
        return after


def deploy_package(
    station: Station, archive: Path, identity: str, controller: Controller, *, dry_run: bool
) -> Deployed:
    """Put a package version in force.

    Raises SwitchError (refused, or put back), ReleaseError, TrialError or OSError.
    """
    slot = station.slot(controlled.PACKAGE)
    before = release.installed(station.package) or ""
    if before == identity and trial.pending(slot) is None:
        return Deployed(False, before, identity)
    if dry_run:
        return Deployed(True, before, identity)
    release.prepare(station.package, archive, identity)
    target = station.package / "releases" / identity
    evidence: dict[str, Any] = {}
    if not before or not (station.config / config_release.CONFIG_NAME).exists():
        trial.point(slot.link, str(target))
        trial.record(slot, "installed", "no controller is configured yet", release=str(target))
    else:
        # The new version must understand the station's configuration before it gets the station.
        after = _check_directory(target / "bin" / "stationkeeper", station.config)
        change = Change(slot, str(target), after, after, restart=True)
        evidence = controlled.switch(controller, change)
    release.prune(station.package)
    return Deployed(True, before, identity, evidence)
