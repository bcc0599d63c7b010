"""The connections that runbooks on the control node use, as an inventory has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def database_logins(database: Mapping[str, Any], password: str) -> dict[str, Any]:
    """Return the variables of an inventory for a database on which both roles have one password."""
    address = {key: database[key] for key in ("hosts", "port", "name", "sslmode") if key in database}
    # The server of these tests has no TLS.
    address["channel_binding"] = "prefer"
    return {"stationkeeper_database": address} | {
        f"stationkeeper_database_{role}": address | {"user": f"flux_{role}", "password": password}
        for role in ("reader", "operator")
    }
