"""What the redis role promises, seen over the network."""

from __future__ import annotations

import base64
import gzip
import os
import socket
from pathlib import Path
from typing import Any

_STATE = os.environ.get("STATIONKEEPER_STATE") or str(Path(__file__).parents[3] / ".state")
STATE = Path(_STATE) / "lab/molredis"


def ask(user: str, *command: str) -> str:
    """Ask over the network as a user whose password the lab keeps, and return the raw answer."""
    password = (STATE / f"redis_{user}").read_text().strip()
    with socket.create_connection(("10.78.32.11", 6379), timeout=5) as connection:
        for words in (("AUTH", user, password), command):
            connection.sendall((" ".join(words) + "\r\n").encode())
            answer = connection.recv(65536).decode()
    return answer


def test_strangers_are_refused(host: Any) -> None:
    assert "NOAUTH" in host.run("redis-cli GET flux:probe").stdout


def test_a_service_has_its_keys_only() -> None:
    assert ask("flux", "SET", "flux:probe", "1", "EX", "60").startswith("+OK")
    assert ask("flux", "GET", "flux:probe") == "$1\r\n1\r\n"
    assert "NOPERM" in ask("flux", "GET", "other:probe")
    assert "NOPERM" in ask("flux", "FLUSHALL")


def test_the_exporter_reads_figures_and_no_values() -> None:
    assert "redis_version" in ask("exporter", "INFO")
    assert "NOPERM" in ask("exporter", "GET", "flux:probe")


def test_data_survive_a_kill(host: Any) -> None:
    ask("flux", "SET", "flux:kept", "yes")
    host.check_output("sleep 1.2; systemctl kill --signal=KILL redis-server")
    host.check_output("for i in 1 2 3 4 5 6 7 8 9 10; do redis-cli PING && exit; sleep 1; done")
    assert ask("flux", "GET", "flux:kept") == "$3\r\nyes\r\n"


def test_no_password_lies_on_the_host(host: Any) -> None:
    # Fetched and searched here: a password in a command would itself be in sudo's log.
    packed = host.check_output("tar -cz /etc /var/lib/redis /var/log/redis 2>/dev/null | base64 -w0")
    text = gzip.decompress(base64.b64decode(packed)) + host.check_output("journalctl -b -o cat").encode()
    for user in ("admin", "flux", "exporter"):
        assert (STATE / f"redis_{user}").read_bytes().strip() not in text
