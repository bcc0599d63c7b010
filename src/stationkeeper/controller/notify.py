"""Tells systemd about readiness, life and state, by the protocol of sd_notify."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping


def notify(message: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Send lines such as ``READY=1``; False when there is no systemd or it does not listen."""
    address = environment.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            # Never wait for systemd: the caller is the control cycle.
            channel.setblocking(False)
            channel.sendto(message.encode(), address)
    except OSError:
        return False
    return True


def watchdog_period_s(environment: Mapping[str, str] = os.environ) -> float | None:
    """Return the seconds within which systemd wants ``WATCHDOG=1``, None when it does not watch."""
    period = environment.get("WATCHDOG_USEC", "")
    if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    return int(period) / 1e6 if period.isdigit() and int(period) > 0 else None
