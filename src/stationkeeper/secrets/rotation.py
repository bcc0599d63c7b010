"""The steps of a rotation, as states of the vault. Pure logic.

Between two steps whoever accepts the credential knows two values of it, and the vault says so, so that any
converge keeps to the step that a rotation has reached, and a killed one goes on from there:

    settled    secret_x
    created    secret_x, secret_x_next      both are accepted, the first is used
    switched   secret_x, secret_x_before    both are accepted, the first, which was the next one, is used

Where one login has one password, as in PostgreSQL, two logins take turns: ``secret_x_suffix`` is what the
name of the one in use has behind the user's.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

Phase = Literal["settled", "created", "switched"]
Values = dict[str, str]

NEXT = "_next"
BEFORE = "_before"
#: Since when a value is used (RFC 3339): no secret.
SINCE = "_since"
#: What the login in use has behind the user's name: no secret.
SUFFIX = "_suffix"


class RotationError(ValueError):
    """A step that does not follow from the state of the vault; the message says what does."""


def phase(values: Mapping[str, str], name: str) -> Phase:
    """Return the step that the rotation of a secret has reached. Raises RotationError."""
    if name not in values:
        raise RotationError(f"the vault has no {name}: create it with `stationkeeper secrets init`")
    created, switched = name + NEXT in values, name + BEFORE in values
    if created and switched:
        raise RotationError(
            f"the vault has both {name}{NEXT} and {name}{BEFORE}, which no step leaves behind: take the one "
            "that no host needs out with `ansible-vault edit`"
        )
    return "created" if created else "switched" if switched else "settled"


def create(values: Mapping[str, str], name: str, value: str) -> Values:
    """Return the vault with a next value, which is accepted but not used. Raises RotationError."""
    _require(values, name, "settled")
    return {**values, name + NEXT: value}


def switch(values: Mapping[str, str], name: str, now: datetime, suffix: str = "") -> Values:
    """Return the vault with the next value in use and the one before still accepted. Raises RotationError.

    ``suffix`` is what the login has that uses the next value.
    """
    _require(values, name, "created")
    after = {**values, name: values[name + NEXT], name + BEFORE: values[name]}
    after[name + SINCE] = now.astimezone(UTC).isoformat(timespec="seconds")
    if suffix != values.get(name + SUFFIX, ""):
        after[name + SUFFIX] = suffix
    del after[name + NEXT]
    return after


def retire(values: Mapping[str, str], name: str) -> Values:
    """Return the vault without the value before. Raises RotationError."""
    _require(values, name, "switched")
    return {key: value for key, value in values.items() if key != name + BEFORE}


def since(values: Mapping[str, str], name: str) -> str:
    """Return since when a secret has its value, or nothing where the vault does not know."""
    return values.get(name + SINCE) or values.get(f"secret{SINCE}", "")


def _require(values: Mapping[str, str], name: str, wanted: Phase) -> None:
    found = phase(values, name)
    if found != wanted:
        raise RotationError(f"{name} is {found}, and this step follows after {wanted}")
