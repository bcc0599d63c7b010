"""The yearly archive on storage that speaks S3, from a real repository host.

Last of all: with the storage goes the repository that these hosts have been given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_20_backup import figure, keeper, pgbackrest

from s3_server import S3Server
from system import LabSystem

# Without a dot: moto takes what stands before the first one for a bucket.
NAME = "storage"
CA = "/etc/ssl/certs/s3_test.pem"
OK = 'stationkeeper_backup_repository_ok{repository="%d"}'


@pytest.fixture(scope="module")
def storage(flux_ha: LabSystem, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Storage on the control node, declared for the repository host as docs/backup.md says."""
    host = flux_ha.hosts("backups")[0]
    asked = flux_ha.run("ansible-inventory", "-i", flux_ha.inventory, "--host", host)
    control = json.loads(asked.stdout)["stationkeeper_control_address"]
    server = S3Server(tmp_path_factory.mktemp("s3"), "archives", address=control, name=NAME)
    keeper(flux_ha, f"echo '{control} {NAME}' >> /etc/hosts")
    keeper(flux_ha, f"cat > {CA} <<'EOF'\n{server.ca.read_text()}EOF\nchmod 0644 {CA}")
    settings = {
        "endpoint": NAME,
        "port": server.port,
        "bucket": "archives",
        "region": "eu-central-1",
        "key": "key",
        "key_secret": "a-secret-that-is-long-enough",
        "cipher_passphrase": "a-passphrase-of-its-own",
        "ca_file": CA,
    }
    folder = flux_ha.inventory / "host_vars"
    folder.mkdir(exist_ok=True)
    (folder / f"{host}.yml").write_text(json.dumps({"pgbackrest_s3": settings}))
    yield server
    server.stop()


def test_the_archive_is_declared_made_and_verified(
    flux_ha: LabSystem, storage: S3Server, tmp_path: Path
) -> None:
    # What site.yml does for the backups.
    play = tmp_path / "backups.yml"
    play.write_text(
        "- hosts: databases:backups\n  gather_facts: false\n  become: true\n  roles: [pgbackrest]\n"
    )
    declared = flux_ha.run("ansible-playbook", "-i", flux_ha.inventory, play, check=False)
    assert declared.returncode == 0, declared.stdout[-5000:]
    host = flux_ha.hosts("backups")[0]
    made = flux_ha.playbook("backup_run", {"target": host, "reason": "test", "type": "archive"})
    assert made.code == 0, made.output[-5000:]
    said = pgbackrest(flux_ha, "info --repo=2").stdout
    assert "full backup" in said
    assert "cipher: aes-256-cbc" in said
    verified = flux_ha.playbook("backup_verify", {"repository": 2})
    assert verified.code == 0, verified.output[-5000:]
    assert figure(flux_ha, 'stationkeeper_backup_verification_problems{repository="2"}') == 0
    # The keys stand on the repository host only.
    for database in flux_ha.hosts("databases"):
        configured = flux_ha.on_host(database, "cat", "/etc/pgbackrest/pgbackrest.conf").stdout
        assert "repo2-host=" in configured
        assert "repo2-s3-key" not in configured


def test_the_archive_restores_the_database(flux_ha: LabSystem, storage: S3Server) -> None:
    told = json.loads(pgbackrest(flux_ha, "info --repo=2 --output=json").stdout)
    newest = told[0]["backup"][-1]["label"]
    host = flux_ha.primary()
    common = {"target": host, "confirm": host, "reason": "test", "scratch_name": "archive"}
    restored = flux_ha.playbook("backup_restore", {**common, "backup": newest})
    try:
        assert restored.code == 0, restored.output[-5000:]
        assert newest in restored.output
    finally:
        removed = flux_ha.playbook("backup_restore", {**common, "remove_scratch": True})
    assert removed.code == 0, removed.output[-5000:]


def test_storage_that_cannot_be_trusted_is_told_before_it_is_needed(
    flux_ha: LabSystem, storage: S3Server
) -> None:
    storage.renew(valid_days=-1)
    try:
        keeper(flux_ha, "systemctl start stationkeeper-backup-watch.service")
        assert [figure(flux_ha, OK % number) for number in (1, 2)] == [1, 0]
    finally:
        storage.renew(valid_days=1)
    keeper(flux_ha, "systemctl start stationkeeper-backup-watch.service")
    assert figure(flux_ha, OK % 2) == 1
