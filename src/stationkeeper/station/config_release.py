"""Configuration releases of a station: what belongs together is switched together.

``<directory>/releases/<content id>/`` holds ``config.yaml``, ``override.yaml`` and ``profiles/``. The link
``current`` names the release in force, and the three names in ``<directory>`` itself are links through it:
the controller reads them there, and an operator may still edit ``override.yaml`` in its usual place. Such an
edit is taken up as a release of its own before anything else is put in force, so it is never lost. Runs on
the station with nothing but its python3 (standard library only).
"""

from __future__ import annotations

import grp
import hashlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import trial

CONFIG_NAME, OVERRIDE_NAME, PROFILES_NAME, CURRENT = "config.yaml", "override.yaml", "profiles", "current"
RELEASES = "releases"


class ConfigReleaseError(Exception):
    """The release cannot be written; the one in force is untouched."""


@dataclass(frozen=True)
class Content:
    """What one release holds, as text. ``profiles`` are files by name."""

    config: str
    override: str = ""
    profiles: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """The content id: 12 hex digits over names, lengths and contents."""
        digest = hashlib.sha256()
        for name, text in self.files().items():
            digest.update(f"{name}\0{len(text.encode())}\0{text}".encode())
        return digest.hexdigest()[:12]

    def files(self) -> dict[str, str]:
        """Return the files by their path within the release."""
        profiles = {f"{PROFILES_NAME}/{name}": text for name, text in sorted(self.profiles.items())}
        return {CONFIG_NAME: self.config, OVERRIDE_NAME: self.override, **profiles}


def read(directory: Path) -> Content | None:
    """Return what stands in a configuration directory or in a release, None where there is nothing.

    Without a config.yaml its text is empty. Raises ConfigReleaseError for a file that cannot be read.
    """
    config, override = directory / CONFIG_NAME, directory / OVERRIDE_NAME
    try:
        if not config.exists() and not override.exists():
            return None
        profiles = directory / PROFILES_NAME
        if not profiles.exists():  # a cut while `link_names` replaced the directory by a link
            profiles = directory / CURRENT / PROFILES_NAME
        return Content(
            config.read_text(encoding="utf-8") if config.exists() else "",
            override.read_text(encoding="utf-8") if override.exists() else "",
            {path.name: path.read_text(encoding="utf-8") for path in profiles.glob("*.y*ml")},
        )
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigReleaseError(f"{directory}: {error}") from error


def complete(
    directory: Path,
    present: Content | None,
    config: str | None,
    override: str | None,
    profiles: Mapping[str, str] | None,
) -> Content:
    """Return what was asked for; what is None stays as it is ``present`` in ``directory``.

    Raises ConfigReleaseError when there is neither.
    """
    if config is None and not (present and present.config):
        raise ConfigReleaseError(f"{directory} holds no configuration: converge the station with site.yml")
    base = present or Content("")
    return Content(
        base.config if config is None else config,
        base.override if override is None else override,
        base.profiles if profiles is None else profiles,
    )


def settled(directory: Path) -> str | None:
    """Return the release in force, None when the names in ``directory`` are not (all) links through it.

    A release that was edited in place has another content than its name says, and is not settled either.
    """
    link = trial.target(directory / CURRENT)
    names = (CONFIG_NAME, OVERRIDE_NAME, PROFILES_NAME)
    linked = all(trial.target(directory / name) == f"{CURRENT}/{name}" for name in names)
    if link is None or not linked:
        return None
    content = read(directory)
    return Path(link).name if content and content.identity == Path(link).name else None


def prepare(directory: Path, content: Content, group: str) -> Path:
    """Write the release durably beside the one in force, unless it is there; returns its path.

    Raises ConfigReleaseError or OSError; the release in force is untouched.
    """
    release = directory / RELEASES / content.identity
    if read(release) == content:
        return release
    try:
        group_id = grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigReleaseError(f"there is no group {group}; converge the station with site.yml") from None
    release.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    os.chown(release.parent, -1, group_id)
    fresh = Path(tempfile.mkdtemp(dir=release.parent, prefix=".new-"))
    try:
        (fresh / PROFILES_NAME).mkdir()
        for name, text in content.files().items():
            _write(fresh / name, text, group_id)
        for folder in (fresh / PROFILES_NAME, fresh):
            folder.chmod(0o750)
            os.chown(folder, -1, group_id)
            trial.sync_directory(folder)
        if release.exists():  # the rest of an interrupted run, or a release that was edited in place
            release.rename(fresh.with_name(f"{fresh.name}-old"))
        fresh.rename(release)
        trial.sync_directory(release.parent)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return release


def _write(path: Path, text: str, group_id: int) -> None:
    with path.open("x", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fchmod(stream.fileno(), 0o640)
        os.fchown(stream.fileno(), -1, group_id)
        os.fsync(stream.fileno())


def adopt(directory: Path, group: str) -> None:
    """Make a release of what stands in ``directory``, and links of its names; the content stays the same.

    For a station from before there were releases, and after an edit in place.
    """
    content = read(directory)
    if content is None or not content.config or settled(directory) is not None:
        return
    release = prepare(directory, content, group)
    trial.point(directory / CURRENT, f"{RELEASES}/{release.name}")
    link_names(directory)


def link_names(directory: Path) -> None:
    """Let the names in ``directory`` lead through ``current``. Each is replaced in one step."""
    for name in (CONFIG_NAME, OVERRIDE_NAME, PROFILES_NAME):
        path = directory / name
        if path.is_dir() and not path.is_symlink():  # no link can replace a directory
            aside = Path(tempfile.mkdtemp(dir=directory / RELEASES, prefix=".old-"))
            path.rename(aside / name)
        if trial.target(path) != f"{CURRENT}/{name}":
            trial.point(path, f"{CURRENT}/{name}")


def prune(directory: Path, keep: int, proven: str) -> None:
    """Remove all but the newest ``keep`` releases; the one in force and ``proven`` always stay."""
    releases = directory / RELEASES
    stay = {(directory / CURRENT).resolve().name, Path(proven).name}
    others = [path for path in releases.iterdir() if path.is_dir() and path.name not in stay]
    others.sort(key=lambda path: (not path.name.startswith("."), path.stat().st_mtime), reverse=True)
    for number, old in enumerate(others):
        if old.name.startswith(".") or number + len(stay) >= keep:
            shutil.rmtree(old, ignore_errors=True)
