"""The arguments of a module that asks the database: how to reach it.

Standard library only: Ansible ships this file with the module, so that the password is known as one, and the
error is about the package, also where the package is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .connection import CHANNEL_BINDINGS, DEFAULT_PORT, SSL_MODES

DATABASE: dict[str, Any] = {
    "hosts": {"type": "list", "elements": "str", "required": True},
    "port": {"type": "int", "default": DEFAULT_PORT},
    "name": {"type": "str", "required": True},
    "user": {"type": "str", "required": True},
    "password": {"type": "str", "no_log": True},
    "sslmode": {"type": "str", "default": "prefer", "choices": list(SSL_MODES)},
    "sslrootcert": {"type": "path"},
    "channel_binding": {"type": "str", "default": "prefer", "choices": list(CHANNEL_BINDINGS)},
}

# The same for a module that runs on the database host, option by option.
DATABASE_HOST: dict[str, Any] = {
    "database": {"type": "str", "required": True},
    "hosts": {"type": "list", "elements": "str", "default": ["/var/run/postgresql"]},
    "port": DATABASE["port"],
    "user": {"type": "str", "default": "postgres"},
    "password": DATABASE["password"],
    "sslmode": DATABASE["sslmode"],
    "channel_binding": DATABASE["channel_binding"],
}


def host_settings(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings for ``connection.connect`` from a module's DATABASE_HOST options."""
    names = [name for name in DATABASE_HOST if name != "database"]
    return {"name": params["database"], **{name: params[name] for name in names}}
