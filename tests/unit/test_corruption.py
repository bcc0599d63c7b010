"""Damage on a real server: a lost index entry, an unreadable page, and what is told of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from module_runner import run_module
from postgres_cluster import PostgresCluster

from stationkeeper.database import corruption, corruption_check
from stationkeeper.database.connection import connect
from stationkeeper.database.corruption import Damage
from stationkeeper.database.corruption_check import CorruptionError, look

START = datetime(2026, 11, 1, tzinfo=UTC)
LIMITS = {"time_limit_s": 60.0, "lock_timeout_s": 1.0}
PAGE = 8192


def test_messages_of_the_server_are_understood() -> None:
    assert corruption.bad_page("invalid page in block 3 of relation base/5/16384") == (3, "base/5/16384")
    # PostgreSQL 18 quotes it.
    assert corruption.bad_page('invalid page in block 7 of relation "base/5/16384"') == (7, "base/5/16384")
    assert corruption.bad_page("item order invariant violated") is None
    assert corruption.filenode("base/5/16384") == 16384
    assert corruption.filenode("pg_tblspc/16400/PG_17_202406281/5/16384.1") == 16384
    assert corruption.named_block("heap tuple (12,3) from table lacks matching index tuple") == 12


def test_the_advice_fits_the_damage() -> None:
    index = Damage("index", "flux.t_pkey", "flux.t", "wrong")
    heap = Damage("heap", "flux.t", "flux.t", "unreadable", 3, since=START, until=START + timedelta(hours=1))
    assert corruption.advice([], standby=False) == []
    assert "-e mend=reindex" in corruption.advice([index], standby=False)[0]
    # Built from a damaged table the index would be as wrong.
    assert corruption.mendable([index, heap]) == []
    steps = corruption.advice([index, heap], standby=False)
    assert [
        word in step for word, step in zip(("switchover", "backup_restore", "resync"), steps, strict=True)
    ] == [
        True,
        True,
        True,
    ]
    assert "window_start=2026-11-01T00:00:00+00:00" in steps[2]
    assert "database_rejoin" in corruption.advice([heap], standby=True)[0]
    assert corruption.advice(corruption.mended([index], ["flux.t_pkey"]), standby=False) == []


def readings(settings: dict[str, Any]) -> None:
    connection = connect(settings)
    with connection, connection.cursor() as cursor:
        cursor.execute("CREATE EXTENSION amcheck")
        cursor.execute("CREATE SCHEMA flux")
        cursor.execute(
            "CREATE TABLE flux.r (time timestamptz, device_id uuid, a text, PRIMARY KEY (device_id, time))"
        )
        cursor.execute(
            "INSERT INTO flux.r SELECT %s + n * interval '10 s', md5('d' || d)::uuid, repeat('x', 100)"
            " FROM generate_series(0, 999) AS n, generate_series(1, 2) AS d ORDER BY 1",
            (START,),
        )
    connection.close()


def lose_an_entry(settings: dict[str, Any]) -> None:
    """Have a row that its index does not know, as after a bug or a lost write."""
    connection = connect(settings)
    with connection, connection.cursor() as cursor:
        ready = "UPDATE pg_index SET indisready = %s WHERE indexrelid = 'flux.r_pkey'::regclass"
        cursor.execute(ready, (False,))
        connection.commit()
        cursor.execute(
            "INSERT INTO flux.r VALUES (%s, md5('d1')::uuid, 'lost')", (START + timedelta(days=1),)
        )
        connection.commit()
        cursor.execute(ready, (True,))
    connection.close()


def test_without_amcheck_the_error_says_how_to_get_it(postgres_settings: dict[str, Any]) -> None:
    with pytest.raises(CorruptionError, match="CREATE EXTENSION amcheck"):
        look(postgres_settings, **LIMITS)


def test_a_lost_index_entry_is_found_and_mended(
    tmp_path: Path, postgres_settings: dict[str, Any], postgres_cluster: PostgresCluster
) -> None:
    readings(postgres_settings)
    assert look(postgres_settings, **LIMITS).damage == []
    lose_an_entry(postgres_settings)
    arguments = {
        "database": postgres_settings["name"],
        "hosts": [str(postgres_cluster.directory)],
        "port": postgres_settings["port"],
        "mend": "reindex",
    }
    planned = run_module(tmp_path, "database_corruption", arguments, check=True)
    assert planned["changed"]
    assert planned["to_mend"] == ["flux.r_pkey"]
    assert not planned["damage"][0]["mended"]
    assert "lacks matching index tuple" in planned["damage"][0]["message"]
    result = run_module(tmp_path, "database_corruption", arguments)
    assert result["lines"] == [f"index flux.r_pkey block {result['damage'][0]['block']}: mended"]
    assert (result["advice"], result["problems"], result["left"]) == ([], [], [])
    assert look(postgres_settings, tables=["flux.r"], **LIMITS).damage == []
    with pytest.raises(CorruptionError, match=r"no table flux\.none"):
        look(postgres_settings, tables=["flux.none"], **LIMITS)


def test_an_index_that_cannot_be_built_is_not_called_mended(postgres_settings: dict[str, Any]) -> None:
    readings(postgres_settings)
    connection = connect(postgres_settings)
    with connection, connection.cursor() as cursor:
        cursor.execute("UPDATE pg_index SET indisready = false WHERE indexrelid = 'flux.r_pkey'::regclass")
        connection.commit()
        # The same reading twice, which the broken index does not see.
        cursor.execute("INSERT INTO flux.r VALUES (%s, md5('d1')::uuid, 'twice')", (START,))
        connection.commit()
        cursor.execute("UPDATE pg_index SET indisready = true WHERE indexrelid = 'flux.r_pkey'::regclass")
    connection.close()
    report = look(postgres_settings, mend=True, **LIMITS)
    assert [one.mended for one in report.damage] == [False]
    assert report.problems[0].startswith("flux.r_pkey is not mended: could not create unique index")


def test_unreadable_pages_are_named_with_what_was_on_them(private_postgres: PostgresCluster) -> None:
    settings = private_postgres.create_database()
    readings(settings)
    with connect(settings) as connection, connection.cursor() as cursor:
        cursor.execute("CHECKPOINT")
        cursor.execute("SELECT pg_relation_filepath('flux.r'), pg_relation_filepath('flux.r_pkey')")
        table, index = cursor.fetchone() or ("", "")
        cursor.execute("SELECT min(time), max(time) FROM flux.r WHERE (ctid::text::point)[0] = 5")
        since, until = cursor.fetchone() or (None, None)
    connection.close()
    private_postgres.stop()
    for path, block in ((table, 5), (table, 9), (index, 2)):
        with (private_postgres.data / path).open("r+b") as file:
            file.seek(block * PAGE)
            file.write(b"\x5a" * PAGE)
    private_postgres.start()
    report = look(settings, mend=True, **LIMITS)
    found = {(one.kind, one.relation, one.block): one for one in report.damage}
    assert set(found) == {("heap", "flux.r", 5), ("heap", "flux.r", 9), ("index", "flux.r_pkey", 2)}
    # Nothing is built from a table that cannot be read.
    assert report.to_mend == []
    damage = found["heap", "flux.r", 5]
    assert damage.since is not None
    assert damage.until is not None
    assert damage.since < since
    assert damage.until > until
    assert damage.until - damage.since < timedelta(hours=1)
    assert len(damage.device_ids) == 2
    assert "readings of 2 devices between" in corruption.describe(damage)
    assert (
        corruption_check.look(settings, tables=["flux.r"], time_limit_s=0.0001, lock_timeout_s=1.0).left != []
    )
