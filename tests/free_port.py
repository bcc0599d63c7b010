"""A TCP port for a server that a test starts."""

from __future__ import annotations

import random
import socket

# Below the ports that the kernel gives to outgoing connections: one of those could take it in between.
_PORTS = range(15_000, 32_000)


def free_port() -> int:
    """Return a port of 127.0.0.1 that nothing listens on."""
    while True:
        port = random.SystemRandom().choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
