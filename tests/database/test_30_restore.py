"""Restores and dumps of the real database with hypertables, proven by psql and pg_restore themselves."""

from __future__ import annotations

import pytest

from system import LabSystem

_DAY = "2026-02-03"
# A day of its own, so that nothing that the system does meanwhile is in it.
_ROWS = f"""
INSERT INTO flux.mg_bess_readings (device_id, time)
SELECT id, '{_DAY}T00:00Z'::timestamptz + n * interval '10 seconds'
FROM flux.mg_device_registry, generate_series(0, 999) AS n WHERE type = 'bess' ON CONFLICT DO NOTHING
"""
_COUNT = f"SELECT count(*) FROM flux.mg_bess_readings WHERE time >= '{_DAY}' AND time < '{_DAY}'::date + 1"


def shell(system: LabSystem, host: str, command: str) -> tuple[int, str]:
    """Run a command as postgres on a host, as a person would type it; return its code and output."""
    done = system.on_host(host, "sudo", "-u", "postgres", "bash", "-c", f"cd /tmp; {command}", check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def primary(flux_ha: LabSystem) -> str:
    """The host that takes writes now."""
    return flux_ha.primary()


def test_rows_that_were_deleted_come_back_from_a_moment_before(flux_ha: LabSystem, primary: str) -> None:
    flux_ha.psql(primary, _ROWS)
    before = int(flux_ha.psql(primary, _COUNT))
    moment = flux_ha.psql(
        primary, "SELECT to_char(clock_timestamp(), 'YYYY-MM-DD\"T\"HH24:MI:SS.US') || '+00:00'"
    )
    assert before >= 1000
    flux_ha.psql(
        primary,
        f"DELETE FROM flux.mg_bess_readings WHERE time < '{_DAY}T01:00Z' AND time >= '{_DAY}'",
    )
    lost = before - int(flux_ha.psql(primary, _COUNT))
    assert lost >= 360
    common = {"target": primary, "confirm": primary, "reason": "test"}
    span = {"rows_from": f"{_DAY}T00:00:00Z", "rows_to": f"{_DAY}T23:00:00Z"}
    inputs = {
        **common,
        **span,
        "recover_to": moment,
        "scratch_name": "test",
        "table": "flux.mg_bess_readings",
    }
    checked = flux_ha.playbook("backup_restore", inputs, "--check")
    assert checked.code == 0, checked.output
    restored = flux_ha.playbook("backup_restore", inputs)
    assert restored.code == 0, restored.output
    assert f"{lost} of {before} rows put back" in restored.output
    assert int(flux_ha.psql(primary, _COUNT)) == before
    # Beyond the end of the archive: it fails, and says how far it got.
    late = {**common, "recover_to": "2099-01-01T00:00:00Z", "scratch_name": "late"}
    failed = flux_ha.playbook("backup_restore", late)
    assert failed.code == 2
    assert "was not reached: the last transaction in the archive is of" in failed.output
    for name in ("test", "late"):
        gone = flux_ha.playbook("backup_restore", {**common, "remove_scratch": True, "scratch_name": name})
        assert gone.code == 0, gone.output


def test_a_parallel_restore_by_hand_leaves_no_row_and_ours_has_all(flux_ha: LabSystem, primary: str) -> None:
    flux_ha.psql(primary, _ROWS)
    dumped = flux_ha.playbook("database_dump", {"target": primary, "reason": "test"})
    assert dumped.code == 0, dumped.output
    assert "restored and equal" in dumped.output
    _, newest = shell(flux_ha, primary, "ls -d /var/lib/stationkeeper_dump/flux-*Z | tail -1")
    # The guides' way to be quick: it prints errors, and no reading is left.
    flux_ha.psql(primary, "CREATE DATABASE by_hand", "postgres")
    try:
        flux_ha.psql(primary, "CREATE EXTENSION timescaledb", "by_hand")
        flux_ha.psql(primary, "SELECT timescaledb_pre_restore()", "by_hand")
        _, said = shell(flux_ha, primary, f"pg_restore -j2 -d by_hand {newest.strip()}/data")
        assert "is not present in table" in said
        flux_ha.psql(primary, "SELECT timescaledb_post_restore()", "by_hand")
        # Which part of the catalog got lost is a matter of luck: no row, or none that can be read.
        count = "psql -XAtq -d by_hand -c 'SELECT count(*) FROM flux.mg_bess_readings'"
        code, counted = shell(flux_ha, primary, count)
        assert counted.strip() == "0" or (code != 0 and "has no dimension slices" in counted), counted
    finally:
        flux_ha.psql(primary, "DROP DATABASE by_hand WITH (FORCE)", "postgres")
    # And a dump of the schema alone, as the guides make it, has none to restore.
    code, said = shell(
        flux_ha, primary, "pg_dump -d flux --schema=flux | sed -n '/^COPY flux.mg_bess_readings/{n;p}'"
    )
    assert code == 0
    assert said.strip().splitlines()[-1] == "\\."
