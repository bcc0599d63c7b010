"""Stable identifiers of devices: the same system, site and name always give the same UUID."""

from __future__ import annotations

import uuid

# Fixed for ever: another value would give every device of every installation a new identity.
NAMESPACE = uuid.UUID("6f0d4c1e-3b52-5a6e-9d0b-8f1c2e7a4b90")


def device_id(system: str, site: str, name: str) -> uuid.UUID:
    """Return the identifier (UUIDv5) of the device ``name`` at ``site`` of ``system``.

    The three parts are taken literally (case matters) and must be neither empty nor contain the separator
    ``/``. Raises ValueError.
    """
    for label, part in (("system", system), ("site", site), ("name", name)):
        if not part or part != part.strip():
            raise ValueError(f"device identity: {label} is {part!r}; it must be text without outer spaces")
        if "/" in part:
            raise ValueError(f"device identity: {label} {part!r} must not contain '/'")
    return uuid.uuid5(NAMESPACE, f"{system}/{site}/{name}")
