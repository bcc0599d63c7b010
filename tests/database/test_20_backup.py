"""Backups of the database on real hosts: made, seen by pgBackRest itself, and each fault found in time."""

from __future__ import annotations

import re
import subprocess

from system import LabSystem

STANZA = "flux"
REPOSITORY = f"/var/lib/pgbackrest/{{}}/{STANZA}"


def keeper(system: LabSystem, command: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a line as root on the repository host."""
    return system.on_host(system.hosts("backups")[0], "bash", "-c", command, check=check)


def pgbackrest(system: LabSystem, words: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Ask pgBackRest itself, past this repository's code."""
    return keeper(system, f"runuser -u pgbackrest -- pgbackrest --stanza={STANZA} {words}", check=check)


def figure(system: LabSystem, series: str) -> float:
    """A figure as it is written for the exporter."""
    line = keeper(system, f"grep -hF '{series} ' /var/lib/prometheus/node-exporter/*.prom").stdout
    return float(line.split()[-1])


def test_a_full_backup_is_made_verified_and_judged(flux_ha: LabSystem) -> None:
    host = flux_ha.hosts("backups")[0]
    play = flux_ha.playbook("backup_run", {"target": host, "reason": "test", "type": "full"})
    assert play.code == 0, play.output[-5000:]
    labels = re.findall(r"full backup: (\d{8}-\d{6}F)", pgbackrest(flux_ha, "info").stdout)
    assert labels[-1] in play.output
    assert figure(flux_ha, 'stationkeeper_backup_last_run_success{kind="database_full"}') == 1
    assert figure(flux_ha, 'stationkeeper_backup_verification_problems{repository="1"}') == 0
    status = flux_ha.playbook("backup_status")
    assert status.code == 0, status.output[-5000:]
    assert status.changed == {}
    timers = keeper(flux_ha, "systemctl list-timers --all --no-legend 'stationkeeper-backup-*'").stdout
    assert "stationkeeper-backup-full.timer" in timers
    assert "stationkeeper-backup-diff.timer" in timers


def test_flipped_bytes_and_missing_wal_are_named_where_pgbackrest_ends_with_0(flux_ha: LabSystem) -> None:
    found = keeper(flux_ha, f"ls -d {REPOSITORY.format('backup')}/*F | tail -1").stdout.strip()
    bundle = keeper(flux_ha, f"ls -S {found}/bundle/* | head -1").stdout.strip()
    keeper(flux_ha, f"cp -a {bundle} {bundle}.kept")
    keeper(flux_ha, f"head -c 64 /dev/urandom | dd of={bundle} bs=1 seek=5000 conv=notrunc status=none")
    try:
        assert pgbackrest(flux_ha, "verify").returncode == 0
        play = flux_ha.playbook("backup_verify")
        assert play.code != 0
        label = found.rsplit("/", 1)[1]
        assert f"invalid checksum {label}/" in " ".join(play.output.split())
        assert figure(flux_ha, 'stationkeeper_backup_verification_problems{repository="1"}') >= 1
    finally:
        keeper(flux_ha, f"mv {bundle}.kept {bundle}")
    assert keeper(flux_ha, "stationkeeper-backup verify").stdout.strip() == "repository 1 is good"

    needed = re.findall(r"wal start/stop: (\w{24})", pgbackrest(flux_ha, "info").stdout)[-1]
    segment = keeper(flux_ha, f"find {REPOSITORY.format('archive')} -name '{needed}-*'").stdout.strip()
    keeper(flux_ha, f"mv {segment} /var/lib/pgbackrest/")
    try:
        said = pgbackrest(flux_ha, "verify --output=text --verbose").stdout
        assert "missing: 0" in said
        assert "status: invalid" not in said
        status = keeper(flux_ha, "stationkeeper-backup status", check=False)
        assert status.returncode == 1
        assert re.search(rf"WAL {needed} is missing: backup \S+ cannot be restored", status.stdout)
    finally:
        keeper(flux_ha, f"mv /var/lib/pgbackrest/{needed}-* {segment}")
    assert keeper(flux_ha, "stationkeeper-backup status").returncode == 0


def test_wrong_keys_and_a_wrong_passphrase_fail_the_backup_and_are_mended(flux_ha: LabSystem) -> None:
    host = flux_ha.hosts("backups")[0]
    success = figure(flux_ha, 'stationkeeper_backup_last_success_timestamp_seconds{kind="database_full"}')
    keeper(flux_ha, "truncate -s 0 /var/lib/pgbackrest_user/.ssh/known_hosts_pgbackrest")
    keeper(
        flux_ha,
        "sed -i 's/^repo1-cipher-pass=.*/repo1-cipher-pass=not-the-one/' /etc/pgbackrest/pgbackrest.conf",
    )
    keeper(flux_ha, "systemctl start stationkeeper-backup@full.service", check=False)
    keeper(flux_ha, "systemctl start stationkeeper-backup-watch.service")
    assert figure(flux_ha, 'stationkeeper_backup_last_run_success{kind="database_full"}') == 0
    assert figure(flux_ha, 'stationkeeper_backup_repository_ok{repository="1"}') == 0
    kept = figure(flux_ha, 'stationkeeper_backup_last_success_timestamp_seconds{kind="database_full"}')
    assert kept == success
    play = flux_ha.playbook("backup_repair", {"target": host, "reason": "test", "type": "full"})
    assert play.code == 0, play.output[-8000:]
    assert re.search(r"was wrong: (log, )?connection to", " ".join(play.output.split()))
    assert keeper(flux_ha, "stationkeeper-backup status").returncode == 0
