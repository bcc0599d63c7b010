"""The runbook database_migrate on this machine, with a real PostgreSQL and files of the test's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from local_project import LocalProject
from postgres_cluster import PostgresCluster

from stationkeeper.database.connection import connect
from stationkeeper.database.migrations import read_applied

FILES = {
    "0001_one.sql": "CREATE SCHEMA flux;\nCREATE TABLE flux.one (id int);\n",
    "0002_two.sql": "CREATE TABLE flux.two (id int);\n",
}


class Project(LocalProject):
    """The runbook whose database host is this machine, past the socket and the accounts of a real one."""

    def __init__(self, path: Path, cluster: PostgresCluster) -> None:
        self.settings = cluster.create_database()
        owner = f"owner_{self.settings['name']}"
        with connect(self.settings) as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE ROLE {owner} NOLOGIN")
            cursor.execute(f"GRANT CREATE ON DATABASE {self.settings['name']} TO {owner}")
        connection.close()
        variables = {
            "stationkeeper_system": "test",
            "stationkeeper_database": {key: self.settings[key] for key in ("hosts", "port", "name")},
        }
        super().__init__(path, variables, {"databases": {"db": {}}})
        self.environment = {"PGHOST": str(cluster.directory), "PGUSER": "postgres"}
        own = f'hosts: ["{cluster.directory}"]\n                owner: {owner}'
        self.replace("database_migrate", "owner: flux_owner", own)
        self.write(FILES)

    def write(self, files: dict[str, str]) -> None:
        """Replace the migrations."""
        directory = self.path / "migrations/test"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        for name, text in files.items():
            (directory / name).write_text(text)

    def migrate(self, *arguments: str) -> int:
        """Run the runbook."""
        return self.run("database_migrate", *arguments, target="db", reason="test")

    def applied(self) -> list[str]:
        """Return the files that the database has."""
        connection = connect(self.settings)
        try:
            return [row.file_name for row in read_applied(connection)]
        finally:
            connection.close()


@pytest.fixture
def project(tmp_path: Path, postgres_cluster: PostgresCluster) -> Project:
    return Project(tmp_path, postgres_cluster)


def test_check_lists_the_run_applies_and_the_next_has_nothing_to_do(project: Project) -> None:
    assert project.migrate("--check") == 0, project.output
    assert "would apply: 0001_one.sql, 0002_two.sql" in project.output
    assert project.applied() == []
    assert list((project.path / "locks").glob("*")) == []
    assert project.migrate() == 0, project.output
    assert "applied: 0001_one.sql, 0002_two.sql" in project.output
    assert project.applied() == ["0001_one.sql", "0002_two.sql"]
    assert project.migrate() == 0, project.output
    assert "nothing to apply, at 0002_two.sql" in project.output
    assert not project.changed
    with connect(project.settings) as connection, connection.cursor() as cursor:
        # What the module reads is not what psql reads: a view that lies to one of them.
        cursor.execute("ALTER TABLE ops.migrations RENAME TO kept")
        cursor.execute(
            "CREATE VIEW ops.migrations AS SELECT version, name, applied_at, applied_by,"
            " CASE current_setting('application_name') WHEN 'psql' THEN 'other' ELSE checksum END AS checksum"
            " FROM ops.kept"
        )
        cursor.execute("GRANT SELECT ON ops.migrations TO PUBLIC")
    assert project.migrate() != 0
    assert "The record is not that of the repository: 0001_one.sql " in project.output


def test_what_fails_or_was_changed_is_named_and_the_lock_is_given_back(project: Project) -> None:
    project.write({**FILES, "0003_three.sql": "SELECT 1;\nSELEC"})
    assert project.migrate() != 0
    assert '0003_three.sql, line 2: syntax error at or near "SELEC"' in project.output
    assert project.applied() == ["0001_one.sql", "0002_two.sql"]
    project.write({**FILES, "0001_one.sql": FILES["0001_one.sql"] + "-- changed\n"})
    assert project.migrate("--check") != 0
    assert "0001_one.sql was changed after it had been applied" in project.output
    assert list((project.path / "locks").glob("*.json")) == []
