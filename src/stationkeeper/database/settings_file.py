"""Connection settings from a file, so that a password stands in no command line and no environment."""

from __future__ import annotations

import argparse
import json
import os
import stat
from pathlib import Path
from typing import Any

# What libpq calls as we do.
_SAME = ("user", "password", "sslmode", "sslrootcert", "channel_binding")


class SettingsFileError(Exception):
    """The file cannot be used; the message names it and shows nothing of its content."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a command that works on the telemetry: where the settings are, and which schema."""
    parser.add_argument(
        "--database-file",
        type=Path,
        required=True,
        help="connection settings as JSON or a libpq string, 0600",
    )
    parser.add_argument("--schema", default="flux", help="schema of the telemetry tables (flux)")


def read_settings(path: Path) -> dict[str, Any]:
    """Read settings for ``connection.connect``: a JSON object in their form, or a libpq connection string.

    Raises SettingsFileError when the file is missing, readable by others, or neither of the two.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        with os.fdopen(descriptor, "r", encoding="utf-8") as stream:
            if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
                raise SettingsFileError(f"{path} holds a password and others may read it: chmod 600 {path}")
            text = stream.read().strip()
    except UnicodeDecodeError:
        raise SettingsFileError(f"{path} is not text") from None
    except OSError as error:
        raise SettingsFileError(f"{path} cannot be read: {error.strerror}") from None
    if not text.startswith("{"):
        return _from_libpq(path, text)
    try:
        return dict(json.loads(text))
    except ValueError:
        raise SettingsFileError(f"{path} is not valid JSON") from None


def _from_libpq(path: Path, text: str) -> dict[str, Any]:
    import psycopg2
    from psycopg2.extensions import parse_dsn

    try:
        parsed = parse_dsn(text)
    except psycopg2.ProgrammingError:
        # The library's message repeats the text, which holds the password.
        raise SettingsFileError(f"{path} is neither JSON nor a libpq connection string") from None
    ports = {part for part in str(parsed.get("port", "")).split(",") if part}
    if len(ports) > 1:
        raise SettingsFileError(f"{path}: all hosts must have the same port")
    return {
        "hosts": [host for host in str(parsed.get("host", "")).split(",") if host],
        "port": int(ports.pop()) if ports else None,
        "name": parsed.get("dbname"),
        **{key: parsed[key] for key in _SAME if key in parsed},
    }
