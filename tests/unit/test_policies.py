"""Policies of hypertables: TimescaleDB's own where there are any, proven timers elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from community_stub import make_community

from stationkeeper.database.connection import connect
from stationkeeper.database.policies import converge
from stationkeeper.database.policy_declaration import (
    Compression,
    Declaration,
    PolicyError,
    Refresh,
    Retention,
    Worker,
)

ROOT = Path(__file__).resolve().parents[2]
TABLE = "flux.readings"
DROPPER = Worker("flux.apply_retention", "flux-retention")
ROLLER = Worker("flux.refresh_5m", "flux-rollup")
SERVICES = {
    "flux-retention": "ExecStart=psql '--command=SELECT * FROM flux.apply_retention(interval '90 days')'",
    "flux-rollup": "ExecStart=psql '--command=SELECT flux.refresh_5m(now() - interval '6 hours', now())'",
}
COMPRESSION = Compression("7 days", ("device_id",), ("time desc",))
REFRESH = Refresh("flux.readings_5m", "6 hours", "1 minute", "5 minutes", ROLLER)


def prepare(settings: dict[str, Any]) -> None:
    with connect(settings) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE SCHEMA flux")
        for table in ("readings", "readings_5m"):
            cursor.execute(f"CREATE TABLE flux.{table} (time timestamptz, device_id uuid)")
        cursor.execute("CREATE FUNCTION flux.apply_retention(keep interval) RETURNS void LANGUAGE sql AS ''")
        cursor.execute(
            "CREATE FUNCTION flux.refresh_5m(timestamptz, timestamptz) RETURNS void LANGUAGE sql AS ''"
        )


@pytest.fixture
def plain(postgres_settings: dict[str, Any]) -> Any:
    prepare(postgres_settings)
    return connect(postgres_settings)


@pytest.fixture
def community(postgres_settings: dict[str, Any]) -> Any:
    prepare(postgres_settings)
    return make_community(postgres_settings, TABLE, views=("flux.readings_5m",))


def no_timer(_: str) -> None:
    return None


def jobs(connection: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT proc_name, config FROM timescaledb_information.jobs ORDER BY proc_name")
        found: list[tuple[Any, ...]] = cursor.fetchall()
    connection.rollback()
    return found


def test_community_gets_policies_once(community: Any) -> None:
    wanted = Declaration(TABLE, Retention("90 days"), COMPRESSION, REFRESH)
    planned = converge(community, wanted, read_timer=no_timer, check=True)
    assert jobs(community) == []
    done = converge(community, wanted, read_timer=no_timer)
    assert (done.actions, done.before, done.after) == (planned.actions, planned.before, planned.after)
    assert done.edition == "community"
    assert done.enforced_by == {"retention": "policy", "compression": "policy", "refresh": "policy"}
    assert done.before == {"retention": None, "compression": None, "refresh": None}
    assert done.after["compression"] == {
        "compress_after": "7 days",
        "segment_by": ["device_id"],
        "order_by": ["time DESC"],
    }
    assert [name for name, _ in jobs(community)] == [
        "policy_compression",
        "policy_refresh_continuous_aggregate",
        "policy_retention",
    ]
    again = converge(community, wanted, read_timer=no_timer)
    assert again.actions == ()
    assert again.before == again.after == done.after


def test_what_differs_is_replaced_and_what_is_not_declared_stays(community: Any) -> None:
    converge(community, Declaration(TABLE, Retention("90 days"), COMPRESSION), read_timer=no_timer)
    # Another spelling of the same.
    assert converge(community, Declaration(TABLE, Retention("90d")), read_timer=no_timer).actions == ()
    done = converge(community, Declaration(TABLE, Retention("1 year")), read_timer=no_timer)
    assert done.actions == (
        f"remove the retention policy of {TABLE}",
        f"add a retention policy to {TABLE}: 1 year",
    )
    assert done.after["compression"] == done.before["compression"] is not None
    other = replace(COMPRESSION, segment_by=("device_id", "boot_id"), order_by=("time", "seq DESC"))
    done = converge(community, Declaration(TABLE, compression=other), read_timer=no_timer)
    assert done.actions == (f"set compression of {TABLE}: by device_id, boot_id",)
    done = converge(
        community,
        Declaration(TABLE, compression=replace(other, compress_after="3 days")),
        read_timer=no_timer,
    )
    assert done.actions == (
        f"remove the compression policy of {TABLE}",
        f"add a compression policy to {TABLE}: 3 days",
    )


def test_a_policy_by_another_measure_is_replaced(community: Any) -> None:
    with community, community.cursor() as cursor:
        cursor.execute(
            "SELECT add_job_(%s, 'policy_retention', '1 day', '{\"drop_created_before\": \"90 days\"}')",
            (TABLE,),
        )
    done = converge(community, Declaration(TABLE, Retention("90 days")), read_timer=no_timer)
    assert len(done.actions) == 2
    assert done.before["retention"] == {"drop_after": "not set"}


def test_policies_are_removed_and_settings_stay(community: Any) -> None:
    converge(community, Declaration(TABLE, Retention("90 days"), COMPRESSION), read_timer=no_timer)
    nothing = Declaration(TABLE, absent=frozenset({"retention", "compression"}))
    assert len(converge(community, nothing, read_timer=no_timer).actions) == 2
    assert jobs(community) == []
    again = converge(community, nothing, read_timer=no_timer)
    assert again.actions == ()
    assert again.before["compression"]["segment_by"] == ["device_id"]


def test_rows_have_one_dropper(community: Any) -> None:
    converge(community, Declaration(TABLE, Retention("30 days")), read_timer=no_timer)
    by_timer = Declaration(TABLE, Retention("90 days", by="timer", worker=DROPPER))
    done = converge(community, by_timer, read_timer=SERVICES.get)
    assert done.actions == (f"remove the retention policy of {TABLE}",)
    assert done.enforced_by == {"retention": "timer"}
    both = Declaration(TABLE, Retention("90 days", worker=DROPPER))
    with pytest.raises(PolicyError, match=r"flux-retention\.timer drops these rows already"):
        converge(community, both, read_timer=SERVICES.get)
    assert converge(community, both, read_timer=no_timer).enforced_by == {"retention": "policy"}


def test_a_failing_call_leaves_nothing(community: Any) -> None:
    with community, community.cursor() as cursor:
        cursor.execute("DROP FUNCTION add_compression_policy")
    with pytest.raises(psycopg2.Error):
        converge(community, Declaration(TABLE, Retention("90 days"), COMPRESSION), read_timer=no_timer)
    assert jobs(community) == []


def test_without_policies_the_timers_are_proven(plain: Any) -> None:
    wanted = Declaration(TABLE, Retention("90 days", worker=DROPPER), COMPRESSION, REFRESH)
    done = converge(plain, wanted, read_timer=SERVICES.get)
    assert (done.edition, done.actions) == ("plain", ())
    assert done.enforced_by == {"retention": "timer", "refresh": "timer"}
    assert done.unsupported_by_edition == ("compression",)
    with pytest.raises(
        PolicyError, match="needs TimescaleDB's Community edition; this is PostgreSQL without"
    ):
        converge(
            plain, replace(wanted, compression=replace(COMPRESSION, required=True)), read_timer=SERVICES.get
        )


@pytest.mark.parametrize(
    ("wanted", "services", "message"),
    [
        (Declaration(TABLE, Retention("90 days")), SERVICES, "declare the function and the timer"),
        (Declaration(TABLE, Retention("90 days", worker=DROPPER)), {}, "is not enabled and active"),
        (
            Declaration(TABLE, Retention("30 days", worker=DROPPER)),
            SERVICES,
            "keeps rows for 90 days, not for 30 days",
        ),
        (
            Declaration(TABLE, Retention("90 days", worker=DROPPER)),
            {"flux-retention": SERVICES["flux-rollup"]},
            "does not call flux.apply_retention",
        ),
        (
            Declaration(TABLE, Retention("90 days", worker=DROPPER)),
            {"flux-retention": "SELECT flux.apply_retention(:keep)"},
            "without an interval to be seen",
        ),
        (
            Declaration(TABLE, Retention("90 days", worker=Worker("flux.none", "x"))),
            SERVICES,
            "no function flux.none; run the migrations",
        ),
        (Declaration(TABLE, Retention("90 days", by="policy")), SERVICES, "has no policies"),
        (Declaration(TABLE, Retention("soon", worker=DROPPER)), SERVICES, "'soon' is not an interval"),
        (Declaration(TABLE, Retention("-1 day", worker=DROPPER)), SERVICES, "must be above zero"),
        (Declaration("readings"), SERVICES, "schema.table"),
        (Declaration("flux.none"), SERVICES, "has no table flux.none"),
        (Declaration(TABLE, compression=Compression("1 day")), SERVICES, "needs order_by"),
        (
            Declaration(TABLE, compression=Compression("1 day", ("a'b",), ("time",))),
            SERVICES,
            "is not of the form",
        ),
        (
            Declaration(TABLE, Retention("9 days", worker=DROPPER), Compression("10 days", (), ("time",))),
            SERVICES,
            "in vain",
        ),
        (
            Declaration(TABLE, Retention("9 days"), absent=frozenset({"retention"})),
            SERVICES,
            "declared and absent",
        ),
    ],
)
def test_what_cannot_be_met_is_refused(
    wanted: Declaration, services: dict[str, str], message: str, plain: Any
) -> None:
    with pytest.raises(PolicyError, match=message):
        converge(plain, wanted, read_timer=services.get)


def test_a_table_that_is_no_hypertable_is_refused(community: Any) -> None:
    with pytest.raises(PolicyError, match=r"flux\.readings_5m is not a hypertable"):
        converge(community, Declaration("flux.readings_5m"), read_timer=no_timer)


def test_the_module_reports_and_refuses(
    plain: Any, postgres_settings: dict[str, Any], tmp_path: Path
) -> None:
    plain.close()
    compression = {"compress_after": "7 days", "order_by": ["time DESC"]}
    done = run_module(tmp_path, postgres_settings, hypertable=TABLE, compression=compression)
    assert (done["changed"], done["edition"]) == (False, "plain")
    assert done["unsupported_by_edition"] == ["compression"]
    retention = {"drop_after": "90 days", "function": "flux.apply_retention", "timer": "no-such-timer"}
    refused = run_module(tmp_path, postgres_settings, hypertable=TABLE, retention=retention)
    assert (
        refused["msg"]
        == "retention: no-such-timer.timer is not enabled and active; run site.yml for the host"
    )


def run_module(directory: Path, settings: dict[str, Any], **arguments: Any) -> dict[str, Any]:
    """Run the module in check mode."""
    (directory / "ansible.cfg").touch()
    environment = os.environ | {
        "ANSIBLE_LIBRARY": str(ROOT / "library"),
        "ANSIBLE_MODULE_UTILS": str(ROOT / "src"),
        "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
        "ANSIBLE_CONFIG": str(directory / "ansible.cfg"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "PYTHONPATH": "",
    }
    arguments |= {key: settings[key] for key in ("hosts", "port", "user", "password")}
    arguments["database"] = settings["name"]
    command = [str(Path(sys.executable).parent / "ansible"), "localhost", "-m", "timescaledb_policies"]
    command += ["--check", "-a", json.dumps(arguments), "-e", f"ansible_python_interpreter={sys.executable}"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, cwd=directory
    )
    result: dict[str, Any] = json.loads(done.stdout)["plays"][0]["tasks"][0]["hosts"]["localhost"]
    return result
