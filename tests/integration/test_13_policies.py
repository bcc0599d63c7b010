"""Declared policies on the lab's TimescaleDB, the Apache edition: timers do the work, and it is proven."""

from __future__ import annotations

import json
from typing import Any

import psycopg2
import pytest
import yaml

from stationkeeper.database import policy_state
from stationkeeper.database.connection import connect
from stationkeeper.database.policy_declaration import Declaration, Refresh
from system import LabSystem

DECLARED: dict[str, Any] = {
    "database": "flux",
    "owner": "flux_owner",
    "hypertable": "flux.mg_meter_readings",
    "retention": {
        "drop_after": "90 days",
        "by": "timer",
        "function": "flux.apply_retention",
        "timer": "flux-retention",
    },
    "compression": {"compress_after": "7 days", "segment_by": ["device_id"], "order_by": ["time DESC"]},
    "refresh": {
        "view": "flux.mg_meter_readings_5m_intermediate",
        "start_offset": "6 hours",
        "end_offset": "1 second",
        "schedule_interval": "5 minutes",
        "function": "flux.refresh_meter_readings_5m",
        "timer": "flux-rollup",
    },
}


def declare(flux: LabSystem, **changes: Any) -> tuple[int, str]:
    """Run the module on the database host; return the exit code and what Ansible printed."""
    done = flux.run(
        *("ansible", "-i", flux.inventory, "fluxdb", "-m", "timescaledb_policies"),
        *("--become", "--become-user", "postgres", "-a", json.dumps(DECLARED | changes)),
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_apache_edition_reports_what_it_cannot_do(flux: LabSystem) -> None:
    code, output = declare(flux)
    assert code == 0, output
    # After "fluxdb | SUCCESS =>" comes the result, after that what Ansible has to say besides.
    result = yaml.safe_load(output.partition("=>")[2].partition("[WARNING]")[0])
    assert result["edition"] == "apache"
    assert (result["changed"], result["actions"]) == (False, [])
    assert result["enforced_by"] == {"retention": "timer", "refresh": "timer"}
    assert result["unsupported_by_edition"] == ["compression"]


def test_what_nobody_would_do_is_an_error(flux: LabSystem) -> None:
    required = {**DECLARED["compression"], "required": True}
    code, output = declare(flux, compression=required)
    assert code != 0
    assert "needs TimescaleDB's Community edition" in output
    code, output = declare(flux, retention={**DECLARED["retention"], "drop_after": "30 days"})
    assert code != 0
    assert "keeps rows for 90 days, not for 30 days" in output
    code, output = declare(flux, hypertable="flux.mg_device_registry")
    assert code != 0
    assert "is not a hypertable" in output


def test_the_calls_to_the_community_edition_are_those_of_the_real_extension(flux: LabSystem) -> None:
    """The Apache edition has the same functions, which refuse: a wrong argument would be another error."""
    table = str(DECLARED["hypertable"])
    wanted = Declaration(table, refresh=Refresh(table, "6 hours", "1 minute", "5 minutes"))
    columns = {"segment_by": ["device_id"], "order_by": ["time DESC"]}
    offsets = {"end_offset": "1 minute", "schedule_interval": "5 minutes"}
    one, other = (
        {
            "retention": {"drop_after": f"{days} days"},
            "compression": {"compress_after": f"{days} days", **columns},
            "refresh": {"start_offset": f"{days} hours", **offsets},
        }
        for days in (7, 8)
    )
    steps = list(policy_state.steps("public", wanted, one, other))
    assert len(steps) == 6
    session = connect(flux.database_settings())
    try:
        for step in steps:
            with pytest.raises(
                psycopg2.errors.FeatureNotSupported, match='under the current "apache" license'
            ):
                session.cursor().execute(step.statement, step.values)
            session.rollback()
    finally:
        session.close()
