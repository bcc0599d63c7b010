"""Numbered migrations: splitting, planning, applying against a real PostgreSQL."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from stationkeeper.database.connection import connect
from stationkeeper.database.migrations import (
    Applied,
    MigrationError,
    apply,
    parse,
    plan,
    read_applied,
    read_directory,
)
from stationkeeper.database.statements import ScriptError, split

ONE = ("0001_one.sql", "CREATE TABLE one (id int);")
TWO = ("0002_two.sql", "CREATE TABLE two (id int);")


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("", []),
        ("-- only; a comment", []),
        ("SELECT 1", [("SELECT 1", 1)]),
        ("SELECT 1;;\n\nSELECT 2;\n", [("SELECT 1", 1), ("SELECT 2", 3)]),
        ("-- a;\n/* b; /* c; */ d; */\nSELECT 1;", [("SELECT 1", 3)]),
        ("SELECT 'a;''b';SELECT \"c;\"\"d\"", [("SELECT 'a;''b'", 1), ('SELECT "c;""d"', 1)]),
        (
            r"SELECT E'a\';b'; SELECT 'a\'; SELECT 2",
            [(r"SELECT E'a\';b'", 1), (r"SELECT 'a\'", 1), ("SELECT 2", 1)],
        ),
        ("SELECT 'x'::type'y;'", [("SELECT 'x'::type'y;'", 1)]),
        ("DO $$ BEGIN; END $$;\nDO $a$ $$;$$ $a$", [("DO $$ BEGIN; END $$", 1), ("DO $a$ $$;$$ $a$", 2)]),
        ("SELECT a$b$c; SELECT $1", [("SELECT a$b$c", 1), ("SELECT $1", 1)]),
    ],
)
def test_split(script: str, expected: list[tuple[str, int]]) -> None:
    assert [(statement.text, statement.line) for statement in split(script)] == expected


@pytest.mark.parametrize(
    ("script", "line", "message"),
    [
        ("SELECT 1;\nSELECT 'a", 2, "not closed"),
        ("\n\n/* a", 3, "not closed"),
        ("DO $x$ a $y$", 1, "not closed"),
        ("SELECT 1;\nCommit;", 2, "one transaction"),
        ("BEGIN;SELECT 1", 1, "one transaction"),
        ("\\i other.sql\n", 1, "psql command"),
    ],
)
def test_split_refuses(script: str, line: int, message: str) -> None:
    with pytest.raises(ScriptError, match=message) as caught:
        split(script)
    assert caught.value.line == line


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([("1_one.sql", "SELECT 1")], "NNNN_name"),
        ([("0001_One.sql", "SELECT 1")], "NNNN_name"),
        ([ONE, ("0001_other.sql", "SELECT 1")], "used twice"),
        ([ONE, ("0003_three.sql", "SELECT 1")], "0002 is missing"),
        ([("0001_empty.sql", "-- nothing\n")], "no statement"),
        ([("0001_one.sql", "SELECT 1;\nROLLBACK;")], "0001_one.sql, line 2"),
    ],
)
def test_parse_refuses(files: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(MigrationError, match=message):
        parse(files)


def test_plan_refuses_changed_missing_and_renamed_files() -> None:
    one, two = parse([ONE, TWO])
    assert plan([one, two], []) == [one, two]
    assert plan([one, two], [Applied(1, "one", one.checksum)]) == [two]
    with pytest.raises(MigrationError, match=r"0001_one\.sql was changed"):
        plan([one, two], [Applied(1, "one", "0" * 64)])
    with pytest.raises(MigrationError, match=r"0003_three\.sql is applied .* missing"):
        plan([one, two], [Applied(3, "three", "0" * 64)])
    with pytest.raises(MigrationError, match="as 0001_uno"):
        plan([one, two], [Applied(1, "uno", one.checksum)])
    with pytest.raises(MigrationError, match="lacks 0001"):
        plan([one, two], [Applied(2, "two", two.checksum)])


def test_read_directory(tmp_path: Path) -> None:
    with pytest.raises(MigrationError, match=r"no \.sql file"):
        read_directory(tmp_path)
    (tmp_path / "0001_one.sql").write_text(ONE[1])
    assert read_directory(tmp_path) == [ONE]
    with pytest.raises(MigrationError, match="not a directory"):
        read_directory(tmp_path / "none")


def test_the_repository_has_migrations_that_parse() -> None:
    assert parse(read_directory(Path(__file__).parents[2] / "migrations/flux"))


def test_apply_records_and_a_second_time_applies_nothing(postgres_settings: dict[str, Any]) -> None:
    connection = connect(postgres_settings)
    assert read_applied(connection) == []
    done = apply(connection, parse([ONE]), applied_by="test")
    assert [migration.file_name for migration in done] == ["0001_one.sql"]
    assert apply(connection, parse([ONE]), applied_by="test") == []
    assert [m.name for m in apply(connection, parse([ONE, TWO]), applied_by="test")] == ["two"]
    assert [row.file_name for row in read_applied(connection)] == ["0001_one.sql", "0002_two.sql"]


def test_a_failing_migration_names_its_line_and_leaves_nothing(postgres_settings: dict[str, Any]) -> None:
    connection = connect(postgres_settings)
    broken = ("0002_two.sql", "CREATE TABLE half (id int);\n\nINSERT INTO half\nVALUES (1, 2);\n")
    with pytest.raises(MigrationError, match=r"0002_two\.sql, line 4: INSERT has more expressions"):
        apply(connection, parse([ONE, broken]), applied_by="test")
    without_position = ("0002_two.sql", "SELECT 1;\n-- again\nCREATE TABLE one (id int);")
    with pytest.raises(MigrationError, match=r'0002_two\.sql, line 3: relation "one" already exists'):
        apply(connection, parse([ONE, without_position]), applied_by="test")
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('one') IS NOT NULL, to_regclass('half') IS NULL")
        assert cursor.fetchone() == (True, True)
    assert [row.version for row in read_applied(connection)] == [1]


def test_owner_owns_what_is_created(postgres_settings: dict[str, Any]) -> None:
    connection = connect(postgres_settings)
    role = f"owner_{postgres_settings['name']}"
    with connection.cursor() as cursor:
        cursor.execute(f"CREATE ROLE {role} NOLOGIN")
        cursor.execute(f"GRANT CREATE ON DATABASE {postgres_settings['name']} TO {role}")
        cursor.execute(f"GRANT CREATE ON SCHEMA public TO {role}")
    connection.commit()
    apply(connection, parse([ONE]), applied_by="test", owner=role)
    with connection.cursor() as cursor:
        cursor.execute("SELECT tableowner FROM pg_tables WHERE tablename IN ('one', 'migrations')")
        assert cursor.fetchall() == [(role,), (role,)]


def test_two_sessions_apply_once(postgres_settings: dict[str, Any]) -> None:
    slow = parse([("0001_slow.sql", "SELECT pg_sleep(0.5); CREATE TABLE slow (id int)")])
    results: list[int] = []

    def migrate() -> None:
        connection = connect(postgres_settings)
        results.append(len(apply(connection, slow, applied_by="test")))
        connection.close()

    threads = [threading.Thread(target=migrate) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1]


def test_a_held_lock_is_reported(postgres_settings: dict[str, Any]) -> None:
    holder = connect(postgres_settings)
    with holder.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_lock(7301846512)")
    with pytest.raises(MigrationError, match="another session migrates"):
        apply(connect(postgres_settings), parse([ONE]), applied_by="test", lock_timeout_s=0.2)
    holder.close()


def test_a_changed_or_missing_earlier_file_stops_before_anything_is_applied(
    postgres_settings: dict[str, Any],
) -> None:
    connection = connect(postgres_settings)
    apply(connection, parse([ONE, TWO]), applied_by="test")
    three = ("0003_three.sql", "CREATE TABLE three (id int);")
    changed = (ONE[0], ONE[1] + "\n-- a comment")
    with pytest.raises(MigrationError, match=r"0001_one\.sql was changed"):
        apply(connection, parse([changed, TWO, three]), applied_by="test")
    with pytest.raises(MigrationError, match=r"0002_two\.sql is applied .* missing"):
        apply(connection, parse([ONE]), applied_by="test")
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('three') IS NULL, count(*) FROM ops.migrations")
        assert cursor.fetchone() == (True, 2)
        # The lock is free again.
        cursor.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        assert cursor.fetchone() == (0,)


def test_a_session_that_is_lost_in_a_migration_leaves_nothing(postgres_settings: dict[str, Any]) -> None:
    lost = ("0002_two.sql", "CREATE TABLE two (id int);\nSELECT pg_terminate_backend(pg_backend_pid());")
    with pytest.raises(MigrationError, match=r"0002_two\.sql, line 2: (server closed|terminating)"):
        apply(connect(postgres_settings), parse([ONE, lost]), applied_by="test")
    connection = connect(postgres_settings)
    assert [row.version for row in read_applied(connection)] == [1]
    assert [m.name for m in apply(connection, parse([ONE, TWO]), applied_by="test")] == ["two"]


def test_what_one_file_sets_does_not_reach_the_next(postgres_settings: dict[str, Any]) -> None:
    connection = connect(postgres_settings)
    files = [
        ("0001_one.sql", "CREATE SCHEMA other; SET search_path = other; CREATE TABLE one (id int);"),
        ("0002_two.sql", "CREATE TABLE two (id int);"),
    ]
    apply(connection, parse(files), applied_by="test")
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('other.one') IS NOT NULL, to_regclass('public.two') IS NOT NULL")
        assert cursor.fetchone() == (True, True)


def test_a_table_that_somebody_holds_is_not_waited_for_without_end(postgres_settings: dict[str, Any]) -> None:
    connection = connect(postgres_settings)
    apply(connection, parse([ONE]), applied_by="test")
    holder = connect(postgres_settings)
    with holder.cursor() as cursor:
        cursor.execute("LOCK TABLE one")
    alter = ("0002_two.sql", "ALTER TABLE one ADD COLUMN more int;")
    with pytest.raises(
        MigrationError, match=r"0002_two\.sql, line 1: canceling statement due to lock timeout"
    ):
        apply(connection, parse([ONE, alter]), applied_by="test", lock_timeout_s=0.2)
    holder.close()
    assert len(apply(connection, parse([ONE, alter]), applied_by="test")) == 1


def test_the_error_class_of_a_lost_server_is_left_alone(postgres_settings: dict[str, Any]) -> None:
    with pytest.raises(psycopg2.OperationalError):
        connect({**postgres_settings, "name": "no_such_database"})
