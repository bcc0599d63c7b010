"""The argument of a module that asks Redis: how to reach it.

Standard library only: Ansible ships this file with the module, so that the password is known as one, and the
error is about the package, also where the package is missing.
"""

from __future__ import annotations

from typing import Any

DEFAULT_PORT = 6379

REDIS: dict[str, Any] = {
    "host": {"type": "str", "required": True},
    "port": {"type": "int", "default": DEFAULT_PORT},
    "user": {"type": "str", "required": True},
    "password": {"type": "str", "required": True, "no_log": True},
}
