"""The year-long archive on storage that speaks S3, and what is seen when its certificate has expired."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from pgbackrest_rig import STANZA, PgBackRestRig

from s3_server import S3Server
from stationkeeper.backup import record
from stationkeeper.backup.judgement import judge
from stationkeeper.backup.look import look
from stationkeeper.backup.run import back_up, watch

OK = 'stationkeeper_backup_repository_ok{repository="%s"}'


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Storage with a bucket; the account of pgBackRest reads its CA."""
    directory = tmp_path_factory.mktemp("s3")
    server = S3Server(directory, "backups")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def rig(storage: S3Server) -> Iterator[PgBackRestRig]:
    """A repository on disk, and one in S3 with its own passphrase and retention."""
    made = PgBackRestRig(
        options={
            "repo2-type": "s3",
            "repo2-path": f"/{STANZA}",
            "repo2-s3-endpoint": "localhost",
            "repo2-s3-bucket": "backups",
            "repo2-s3-region": "eu-west-1",
            "repo2-s3-key": "key",
            "repo2-s3-key-secret": "secret",
            "repo2-s3-uri-style": "path",
            "repo2-storage-port": str(storage.port),
            "repo2-cipher-type": "aes-256-cbc",
            "repo2-cipher-pass": "another passphrase for the archive",
            "repo2-retention-full": "365",
            "repo2-retention-full-type": "time",
            "repo2-bundle": "y",
        },
        ca=storage.ca,
    )
    yield made
    made.remove()


def test_an_archive_goes_to_s3_and_an_expired_certificate_is_seen_before_it_is_needed(
    rig: PgBackRestRig, storage: S3Server
) -> None:
    settings = rig.settings
    outcome = back_up(settings, "archive")
    assert outcome.succeeded, outcome.message
    (archived,) = look(settings.tool, time.time()).content.backups
    assert archived.kind == "database_archive"
    assert record.load(settings.record).verified_at(archived)
    assert 'stationkeeper_backup_last_success_timestamp_seconds{kind="database_archive"}' in rig.figures()
    # It really is there: nothing of it is in the repository on disk.
    restored = rig.directory / "restored"
    restored.mkdir(mode=0o700)
    rig.own(restored)
    rig.pgbackrest("restore", "--repo=2", f"--pg1-path={restored}", "--archive-mode=off")
    assert (restored / "global" / "pg_control").stat().st_size > 0
    assert not list((rig.repository / "backup" / STANZA).glob("2*"))
    watch(settings)
    assert [rig.figures()[OK % key] for key in (1, 2)] == [1, 1]

    storage.renew(valid_days=-1)
    rig.configure(archive_timeout="2")
    watch(settings)
    assert [rig.figures()[OK % key] for key in (1, 2)] == [1, 0]
    now = time.time()
    problems = judge(look(settings.tool, now), record.load(settings.record), (), now).problems
    assert any(
        said.startswith("repository 2 cannot be read: ") and "certificate" in said for said in problems
    )

    storage.renew(valid_days=1)
    watch(settings)
    assert [rig.figures()[OK % key] for key in (1, 2)] == [1, 1]
