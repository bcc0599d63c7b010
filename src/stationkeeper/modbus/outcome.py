"""What became of a write to a device."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """Outcome of a write; only `unchanged` and `verified` are success.

    `unknown` means that a request left and no answer came back: the device may or may not have
    applied it, so it is never reported as "not applied".
    """

    UNCHANGED = "unchanged"
    VERIFIED = "verified"
    ACCEPTED_UNVERIFIED = "accepted_unverified"
    UNKNOWN = "unknown"
    REJECTED = "rejected"
    CONTENDED = "contended"
    UNREACHABLE = "unreachable"
    BLOCKED_BY_INTERLOCK = "blocked_by_interlock"

    @property
    def is_success(self) -> bool:
        """True for the two outcomes that prove the wanted value."""
        return self in (Outcome.UNCHANGED, Outcome.VERIFIED)
