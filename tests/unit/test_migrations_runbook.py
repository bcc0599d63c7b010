"""The runbook database_migrate on this machine, with a real PostgreSQL and files of the test's own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from postgres_cluster import PASSWORD, PostgresCluster

from stationkeeper.database.connection import connect
from stationkeeper.database.migrations import read_applied

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "0001_one.sql": "CREATE SCHEMA flux;\nCREATE TABLE flux.one (id int);\n",
    "0002_two.sql": "CREATE TABLE flux.two (id int);\n",
}


class Project:
    """A copy of the runbook whose database host is this machine, past the lab's socket and accounts."""

    def __init__(self, path: Path, cluster: PostgresCluster) -> None:
        self.path = path
        self.cluster = cluster
        self.settings = cluster.create_database()
        self.output = ""
        for name in ("action_plugins", "filter_plugins", "src", "roles", "library"):
            (path / name).symlink_to(ROOT / name)
        shutil.copytree(ROOT / "playbooks", path / "playbooks", symlinks=True)
        shutil.copy(ROOT / "ansible.cfg", path)
        runbook = path / "playbooks/database_migrate.yml"
        own = f'hosts: ["{cluster.directory}"]\n                owner: {self.owner}'
        runbook.write_text(runbook.read_text().replace("owner: flux_owner", own))
        self.write(FILES)
        common = {
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_python_interpreter": "{{ ansible_playbook_python }}",
            "runbook_lock_directory": str(path / "locks"),
            "stationkeeper_system": "test",
            "stationkeeper_database": {key: self.settings[key] for key in ("hosts", "port", "name")},
        }
        inventory = {"all": {"vars": common, "children": {"databases": {"hosts": {"db": {}}}}}}
        (path / "hosts.yml").write_text(yaml.safe_dump(inventory))

    @property
    def owner(self) -> str:
        """Role that owns what the migrations make; made here as the role `postgresql` does."""
        name = f"owner_{self.settings['name']}"
        with connect(self.settings) as connection, connection.cursor() as cursor:
            cursor.execute(f"CREATE ROLE {name} NOLOGIN")
            cursor.execute(f"GRANT CREATE ON DATABASE {self.settings['name']} TO {name}")
        return name

    def write(self, files: dict[str, str]) -> None:
        """Replace the migrations."""
        directory = self.path / "migrations/test"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        for name, text in files.items():
            (directory / name).write_text(text)

    def run(self, *arguments: str, **inputs: Any) -> int:
        """Run the runbook; its output is kept with its white space folded."""
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        environment = {
            **kept,
            "PGHOST": str(self.cluster.directory),
            "PGUSER": "postgres",
            "PYTHONPATH": str(ROOT / "src"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_CONFIG": str(self.path / "ansible.cfg"),
            "STATIONKEEPER_STATE": str(self.path / "state"),
            "STATIONKEEPER_AUDIT_SPOOL": str(self.path / "spool"),
        }
        values = {"target": "db", "reason": "test", **inputs}
        program = str(Path(sys.executable).parent / "ansible-playbook")
        command = [program, "-i", "hosts.yml", "playbooks/database_migrate.yml", "-e", json.dumps(values)]
        done = subprocess.run(
            [*command, *arguments],
            cwd=self.path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        self.output = " ".join((done.stdout + done.stderr).split())
        assert "DEPRECATION" not in self.output
        assert PASSWORD not in self.output
        return done.returncode

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
    assert project.run("--check") == 0, project.output
    assert "would apply: 0001_one.sql, 0002_two.sql" in project.output
    assert project.applied() == []
    assert list((project.path / "locks").glob("*")) == []
    assert project.run() == 0, project.output
    assert "applied: 0001_one.sql, 0002_two.sql" in project.output
    assert project.applied() == ["0001_one.sql", "0002_two.sql"]
    assert project.run() == 0, project.output
    assert "nothing to apply, at 0002_two.sql" in project.output
    assert "changed=0" in project.output.split("PLAY RECAP")[1]
    with connect(project.settings) as connection, connection.cursor() as cursor:
        # What the module reads is not what psql reads: a view that lies to one of them.
        cursor.execute("ALTER TABLE ops.migrations RENAME TO kept")
        cursor.execute(
            "CREATE VIEW ops.migrations AS SELECT version, name, applied_at, applied_by,"
            " CASE current_setting('application_name') WHEN 'psql' THEN 'other' ELSE checksum END AS checksum"
            " FROM ops.kept"
        )
        cursor.execute("GRANT SELECT ON ops.migrations TO PUBLIC")
    assert project.run() != 0
    assert "The record is not that of the repository: 0001_one.sql " in project.output


def test_what_fails_or_was_changed_is_named_and_the_lock_is_given_back(project: Project) -> None:
    project.write({**FILES, "0003_three.sql": "SELECT 1;\nSELEC"})
    assert project.run() != 0
    assert '0003_three.sql, line 2: syntax error at or near "SELEC"' in project.output
    assert project.applied() == ["0001_one.sql", "0002_two.sql"]
    project.write({**FILES, "0001_one.sql": FILES["0001_one.sql"] + "-- changed\n"})
    assert project.run("--check") != 0
    assert "0001_one.sql was changed after it had been applied" in project.output
    assert list((project.path / "locks").glob("*.json")) == []
