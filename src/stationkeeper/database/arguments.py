"""The argument of a module that asks the database: how to reach it.

Standard library only: Ansible ships this file with the module, so that the password is known as one, and the
error is about the package, also where the package is missing.
"""

from __future__ import annotations

from typing import Any

from .connection import DEFAULT_PORT, SSL_MODES

DATABASE: dict[str, Any] = {
    "hosts": {"type": "list", "elements": "str", "required": True},
    "port": {"type": "int", "default": DEFAULT_PORT},
    "name": {"type": "str", "required": True},
    "user": {"type": "str", "required": True},
    "password": {"type": "str", "no_log": True},
    "sslmode": {"type": "str", "default": "prefer", "choices": list(SSL_MODES)},
    "sslrootcert": {"type": "path"},
}
