"""What the database roles and the migrations promise, seen with psql and over the network."""

from __future__ import annotations

import base64
import gzip
import os
import shlex
from pathlib import Path
from typing import Any

import psycopg2
import pytest

_STATE = os.environ.get("STATIONKEEPER_STATE") or str(Path(__file__).parents[3] / ".state")
STATE = Path(_STATE) / "lab/molpg"
ADDRESS = "10.78.31.11"
METER = "0b0f9f5e-6d5c-5a10-9d6c-2f7c0c6f0a01"
INSERT = (
    "INSERT INTO flux.mg_meter_readings (time, device_id, power_kw, energy_import_kwh) "
    "SELECT t, '{device}', {power}, extract(epoch FROM t) FROM generate_series({start}, {end}, {step}) AS t "
    "ON CONFLICT DO NOTHING"
)


def sql(host: Any, statement: str, role: str = "flux_owner") -> str:
    """Run statements as a role and return the last answer; fails on an error."""
    answer: str = run(host, statement, role).stdout.strip()
    return answer


def run(host: Any, statement: str, role: str, check: bool = True) -> Any:
    """Run statements as a role in database flux."""
    done = host.run(
        "cd / && sudo -u postgres psql -XAtq -v ON_ERROR_STOP=1 -d flux "
        f"-c 'SET ROLE {role}' -c {shlex.quote(statement)}"
    )
    assert not check or done.rc == 0, done.stderr
    return done


@pytest.fixture(autouse=True)
def _clean(host: Any) -> Any:
    yield
    sql(host, "TRUNCATE flux.mg_meter_readings, flux.mg_bess_readings")
    sql(host, "DELETE FROM flux.mg_meter_readings_5m_intermediate; DELETE FROM ops.retention")


def connect(user: str, password: str | None = None, sslmode: str = "require") -> Any:
    secret = password or (STATE / user).read_text().strip()
    return psycopg2.connect(
        host=ADDRESS, dbname="flux", user=user, password=secret, sslmode=sslmode, connect_timeout=5
    )


def test_cluster_is_online_with_checksums(host: Any) -> None:
    assert "online" in host.check_output("pg_lsclusters --no-header")
    assert sql(host, "SHOW data_checksums", "postgres") == "on"


def test_reader_logs_in_over_tls_only(host: Any) -> None:
    with connect("flux_reader") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM flux.mg_device_registry")
        assert cursor.fetchone() == (1,)
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            cursor.execute("DELETE FROM flux.mg_device_registry")
    connection.close()
    for arguments in ({"sslmode": "disable"}, {"password": "wrong"}):
        with pytest.raises(psycopg2.OperationalError):
            connect("flux_reader", **arguments)


def test_nobody_else_gets_in_over_the_network(host: Any) -> None:
    # The control node is no station.
    with pytest.raises(psycopg2.OperationalError, match=r"no pg_hba\.conf entry"):
        connect("flux_writer")
    with pytest.raises(psycopg2.OperationalError, match=r"no pg_hba\.conf entry"):
        connect("postgres", "x")


def test_writer_adds_and_changes_nothing(host: Any) -> None:
    row = {"device": METER, "start": "now()", "end": "now()", "step": "interval '1 s'", "power": 1}
    sql(host, INSERT.format(**row), "flux_writer")
    for statement in (
        "DELETE FROM flux.mg_bess_readings",
        "UPDATE flux.mg_bess_readings SET power_kw = 0",
        "INSERT INTO flux.mg_device_registry DEFAULT VALUES",
        "SELECT flux.refresh_meter_readings_5m(now() - interval '1 h', now())",
        "SELECT * FROM flux.apply_retention(interval '90 days')",
    ):
        assert "permission denied" in run(host, statement, "flux_writer", check=False).stderr


def test_both_readings_are_hypertables_of_one_day(host: Any) -> None:
    answer = sql(
        host,
        "SELECT hypertable_name, time_interval FROM timescaledb_information.dimensions ORDER BY 1",
        "postgres",
    )
    assert answer.splitlines() == ["mg_bess_readings|1 day", "mg_meter_readings|1 day"]


def test_rollup_takes_late_readings_in(host: Any) -> None:
    bucket = "timestamptz '2026-01-05 10:00Z'"
    start, end = f"{bucket}", f"{bucket} + interval '299 s'"
    arguments = {"device": METER, "start": start, "end": end}
    sql(host, INSERT.format(power=10, step="interval '20 s'", **arguments))
    window = f"{bucket} + interval '2 min', {bucket} + interval '3 min'"
    refresh = f"SELECT flux.refresh_meter_readings_5m({window})"
    assert sql(host, refresh, "flux_operator") == "1"
    assert sql(host, refresh, "flux_operator") == "0"
    query = (
        "SELECT samples, power_kw_avg, power_kw_min, power_kw_max,"
        " energy_import_kwh = extract(epoch FROM bucket + interval '280 s')"
        " FROM flux.mg_meter_readings_5m_intermediate"
    )
    assert sql(host, query) == "15|10|10|10|t"
    # Every tenth second, of which every second one is there already.
    sql(host, INSERT.format(power=20, step="interval '10 s'", **arguments))
    assert sql(host, refresh, "flux_operator") == "1"
    assert sql(host, query).startswith("30|15|10|20|f")


def test_retention_rolls_up_first_and_late_readings_never_replace_an_old_rollup(host: Any) -> None:
    old = "date_trunc('day', now(), 'UTC') - interval '100 days'"
    arguments = {"device": METER, "start": old, "end": f"{old} + interval '299 s'"}
    sql(host, INSERT.format(power=7, step="interval '10 s'", **arguments))
    recent = {"device": METER, "start": "now() - interval '10 min'", "end": "now()"}
    sql(host, INSERT.format(power=1, step="interval '1 min'", **recent))
    dropped = sql(host, "SELECT * FROM flux.apply_retention(interval '90 days')")
    assert dropped.splitlines() == ["flux.mg_bess_readings|0", "flux.mg_meter_readings|1"]
    assert sql(host, "SELECT count(*) FROM flux.mg_meter_readings") == "11"
    rollup = "SELECT samples, power_kw_avg FROM flux.mg_meter_readings_5m_intermediate"
    assert sql(host, rollup) == "30|7"
    # One reading of the dropped span arrives late.
    sql(host, INSERT.format(power=99, step="interval '1 h'", **arguments))
    sql(host, "SELECT flux.refresh_meter_readings_5m(now() - interval '200 days', now() - interval '1 day')")
    assert sql(host, rollup) == "30|7"
    assert sql(host, "SELECT * FROM flux.apply_retention(interval '90 days')").endswith("readings|1")
    assert sql(host, rollup) == "30|7"


def test_retention_refuses_a_span_below_a_day(host: Any) -> None:
    refused = run(host, "SELECT * FROM flux.apply_retention(interval '1 hour')", "flux_owner", check=False)
    assert "at least one day" in refused.stderr


@pytest.mark.parametrize("job", ["flux-rollup", "flux-retention"])
def test_jobs_run(host: Any, job: str) -> None:
    assert host.service(f"{job}.timer").is_running
    assert host.service(f"{job}.timer").is_enabled
    done = host.run(f"systemctl start {job}.service")
    assert done.rc == 0, host.run(f"journalctl -u {job} -n 20 -o cat").stdout


def test_no_password_lies_in_the_log_or_configuration(host: Any) -> None:
    # Fetched and searched here: a password in a command would itself be in sudo's log.
    packed = host.check_output("tar -cz /etc /var/log/postgresql 2>/dev/null | base64 -w0")
    text = gzip.decompress(base64.b64decode(packed)) + host.check_output("journalctl -b -o cat").encode()
    for user in ("flux_writer", "flux_reader", "flux_operator", "flux_exporter", "flux_jobs"):
        assert (STATE / user).read_bytes().strip() not in text
