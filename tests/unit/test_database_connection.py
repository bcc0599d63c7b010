"""The connection that uploads, modules and checks share."""

from __future__ import annotations

import time
from typing import Any

import psycopg2
import pytest

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
