"""The connection that uploads, modules and checks share."""

from __future__ import annotations

import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from postgres_cluster import PostgresCluster

from stationkeeper.database.connection import SettingsError, connect, parameters

SETTINGS: dict[str, Any] = {
    "hosts": ["db1", "db2"],
    "port": 5433,
    "name": "flux",
    "user": "u",
    "password": "p",
}


def test_all_hosts_go_to_libpq_which_looks_for_the_writable_one() -> None:
    result = parameters(SETTINGS)
    assert result["host"] == "db1,db2"
    assert result["target_session_attrs"] == "read-write"
    assert result["tcp_user_timeout"] == "10000"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hosts": []}, "hosts"),
        ({"hosts": "db1"}, "hosts"),
        ({"name": ""}, "name"),
        ({"user": None}, "user"),
        ({"sslmode": "yes"}, "sslmode"),
        ({"channel_binding": "yes"}, "channel_binding"),
    ],
)
def test_bad_settings_name_the_key(change: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        parameters(SETTINGS | change)


def test_connects_past_a_dead_host_and_speaks_utc(postgres_settings: dict[str, Any]) -> None:
    # The first address refuses; libpq goes on to the second.
    connection = connect(postgres_settings | {"hosts": ["127.0.0.2", *postgres_settings["hosts"]]})
    with connection.cursor() as cursor:
        cursor.execute("SHOW TimeZone")
        assert cursor.fetchone() == ("UTC",)
    connection.close()


def test_a_read_only_server_is_not_taken_for_the_primary(postgres_settings: dict[str, Any]) -> None:
    connection = connect(postgres_settings)
    connection.autocommit = True
    connection.cursor().execute(
        f"ALTER DATABASE {postgres_settings['name']} SET default_transaction_read_only = on"
    )
    connection.close()
    with pytest.raises(psycopg2.OperationalError, match="read-only"):
        connect(postgres_settings)


def test_a_silent_host_costs_at_most_the_time_out() -> None:
    started = time.monotonic()
    with pytest.raises(psycopg2.OperationalError):
        connect({"hosts": ["240.0.0.1"], "name": "x", "user": "x"}, connect_timeout_s=2)
    assert time.monotonic() - started < 60, "TCP itself gives up after two minutes"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate with its key, as anybody can make one."""
    path = tmp_path / "host.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-noenc", "-days", "2", "-subj", "/CN=db"]
    subprocess.run([*command, "-keyout", path, "-out", tmp_path / "part"], check=True, capture_output=True)
    path.write_text(path.read_text() + (tmp_path / "part").read_text())
    return path


def impostor(certificate: Path, heard: list[bytes]) -> int:
    """Answer one client as a server that wants the password in plain text; return the port."""
    listener = socket.create_server(("127.0.0.1", 0))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve() -> None:
        connection, _ = listener.accept()
        with listener, connection:
            connection.recv(8)
            connection.sendall(b"S")
            with context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(4096)
                secured.sendall(b"R" + struct.pack("!II", 8, 3))
                heard.append(secured.recv(4096))

    threading.Thread(target=serve, daemon=True).start()
    return int(listener.getsockname()[1])


def test_an_impostor_does_not_learn_the_password(certificate: Path) -> None:
    for binding, learns in (("prefer", True), ("require", False)):
        heard: list[bytes] = []
        port = impostor(certificate, heard)
        settings = SETTINGS | {"hosts": ["127.0.0.1"], "port": port, "sslmode": "require"}
        settings |= {"password": "a-secret", "channel_binding": binding}
        with pytest.raises(psycopg2.OperationalError) as refusal:
            connect(settings)
        assert (b"a-secret" in b"".join(heard)) == learns
        assert ("channel binding" in str(refusal.value)) != learns


def test_the_server_that_knows_the_password_is_known(
    private_postgres: PostgresCluster, certificate: Path
) -> None:
    settings = private_postgres.settings() | {"sslmode": "require", "channel_binding": "require"}
    with pytest.raises(psycopg2.OperationalError, match="SSL"):
        connect(settings)
    private_postgres.stop()
    own = private_postgres.directory / "host.pem"
    shutil.copy(certificate, own)
    shutil.chown(own, private_postgres.data.owner())
    own.chmod(0o600)
    private_postgres.start(ssl="on", ssl_cert_file=str(own), ssl_key_file=str(own))
    connect(settings).close()
    with pytest.raises(psycopg2.OperationalError, match="password authentication failed"):
        connect(settings | {"password": "another"})
