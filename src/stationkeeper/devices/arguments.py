"""The argument that every device module has: how to reach the database."""

from typing import Any

from stationkeeper.database.connection import DEFAULT_PORT, SSL_MODES

DATABASE: dict[str, Any] = {
    "hosts": {"type": "list", "elements": "str", "required": True},
    "port": {"type": "int", "default": DEFAULT_PORT},
    "name": {"type": "str", "required": True},
    "user": {"type": "str", "required": True},
    "password": {"type": "str", "no_log": True},
    "sslmode": {"type": "str", "default": "prefer", "choices": list(SSL_MODES)},
    "sslrootcert": {"type": "path"},
}
