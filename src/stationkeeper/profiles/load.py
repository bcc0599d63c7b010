"""Finds and reads profiles; every complaint names the file, the place in it and what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from stationkeeper.profiles.schema import Profile

DATA = Path(__file__).parent / "data"


class ProfileError(ValueError):
    """A profile that does not exist or is not valid; the message is for an operator."""


def load_profile(name: str, search_path: Sequence[str | Path] = ()) -> Profile:
    """Return the profile `name` from the first directory that has `name`.yaml, the built-in ones last."""
    directories = [Path(directory) for directory in search_path] + [DATA]
    # Names come from inventories and configuration: never let one walk out of the directories.
    if Path(name).name != name:
        raise ProfileError(f"{name!r} is a path; a profile is named without directory and extension")
    for directory in directories:
        path = directory / f"{name}.yaml"
        if path.is_file():
            profile = read_profile(path)
            if profile.name != name:
                raise ProfileError(f"{path}: name is {profile.name!r}; it must equal the file's name")
            return profile
    known = sorted({path.stem for directory in directories for path in directory.glob("*.yaml")})
    raise ProfileError(
        f"no profile {name!r} in {', '.join(str(directory) for directory in directories)}; "
        f"known profiles: {', '.join(known)}"
    )


def read_profile(path: Path) -> Profile:
    """Return the profile in one file."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ProfileError(f"{path}: cannot be read as YAML: {error}") from None
    return parse_profile(content, str(path))


def parse_profile(content: Any, source: str) -> Profile:
    """Return the profile in a mapping; `source` names it in errors."""
    if not isinstance(content, Mapping):
        raise ProfileError(f"{source}: a profile is a mapping, not {type(content).__name__}")
    try:
        return Profile.model_validate(dict(content))
    except ValidationError as error:
        problems = [_problem(source, detail) for detail in error.errors()]
        raise ProfileError("; ".join(problems)) from None


def _problem(source: str, detail: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    message = str(detail["msg"]).removeprefix("Value error, ")
    given = f", not {detail['input']!r}" if detail["type"] in ("enum", "literal_error") else ""
    return f"{source}: {place}: {message}{given}" if place else f"{source}: {message}{given}"
