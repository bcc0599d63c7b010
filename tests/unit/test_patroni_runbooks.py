"""The parts of the database runbooks that leave the work to Patroni: what they conclude from its answers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment

TASKS = Path(__file__).resolve().parents[2] / "playbooks" / "tasks"


def tasks(name: str) -> list[dict[str, Any]]:
    """Return the tasks of a file under playbooks/tasks, those of blocks left out."""
    loaded: list[dict[str, Any]] = yaml.safe_load((TASKS / name).read_text())
    return loaded


def named(name: str, title: str) -> dict[str, Any]:
    (found,) = [task for task in tasks(name) if task["name"] == title]
    return found


@pytest.mark.parametrize(
    ("answer", "leads", "done"),
    [
        ({"status": 200}, {"skipped": True}, True),
        # It has elected the host by itself in the meantime, and refuses to do so again.
        ({"status": 503}, {"status": 200}, True),
        ({"status": 503}, {"status": 503}, False),
        ({"status": -1}, {"status": -1}, False),
    ],
)
def test_a_host_that_patroni_elected_by_itself_is_primary(
    answer: dict[str, Any], leads: dict[str, Any], done: bool
) -> None:
    condition = named("patroni_switch.yml", "Require that Patroni did it")["ansible.builtin.assert"]["that"]
    judged = Environment().compile_expression(condition)
    assert judged(database_promoted=answer, _patroni_leads=leads) is done


def test_a_task_that_is_left_out_overwrites_nothing_that_is_judged() -> None:
    """A skipped task registers too: the copy of a host that follows would begin."""
    names = [task["register"] for task in tasks("patroni_rejoin.yml") if "register" in task]
    assert len(names) == len(set(names))
    streams = named("patroni_rejoin.yml", "Start Patroni")["vars"]["_streams"]
    assert set(re.findall(r"_patroni_\w+", streams)) == {"_patroni_members", "_patroni_again"}


def test_only_rewinding_never_copies() -> None:
    refusal = named("patroni_rejoin.yml", "Refuse to copy where only rewinding was asked for")
    order = [task["name"] for task in tasks("patroni_rejoin.yml")]
    assert order.index(refusal["name"]) < order.index("Copy the primary anew")
    judged = Environment().compile_expression(refusal["ansible.builtin.assert"]["that"])

    def allowed(method: str, *, streams: bool) -> Any:
        return judged(_streams=streams, _run={"inputs": {"method": method}})

    assert allowed("rewind", streams=True)
    assert not allowed("rewind", streams=False)
    assert allowed("auto", streams=False)


def test_a_restore_in_place_is_refused_before_the_lock() -> None:
    plays = yaml.safe_load((TASKS.parent / "backup_restore.yml").read_text())
    (block,) = [task["block"] for play in plays for task in play["tasks"] if "block" in task]
    refusal = block[0]
    condition = refusal["ansible.builtin.assert"]["that"]
    judged = Environment().compile_expression(condition)
    assert not judged(_inputs={"into": "in_place"}, postgresql_manager="patroni")
    assert judged(_inputs={"into": "scratch"}, postgresql_manager="patroni")
    assert judged(_inputs={"into": "in_place"})


def test_a_minor_upgrade_never_starts_a_server_beside_patroni() -> None:
    unit = named(
        "database_upgrade_host.yml",
        "Restart the server for the new package, or for settings that wait for it",
    )
    patroni = named("database_upgrade_host.yml", "Have Patroni restart the server")
    for managed in (True, False):
        names = {"_restarts": True, "_patroni": managed, "ansible_check_mode": False}
        assert Environment().compile_expression(unit["when"])(**names) is not managed
        assert Environment().compile_expression(patroni["when"])(**names) is managed


def test_a_new_standby_is_known_to_etcd_before_its_server_is_made() -> None:
    plays = yaml.safe_load((TASKS.parent / "database_add_standby.yml").read_text())
    (prepare,) = [number for number, play in enumerate(plays) if "tasks/election.yml" in str(play)]
    (converge,) = [number for number, play in enumerate(plays) if "'name': 'timescaledb'}" in str(play)]
    assert prepare < converge
    # A bare host has no lists of packages.
    (block,) = [task["block"] for task in plays[prepare]["tasks"]]
    assert block[0]["ansible.builtin.apt"]["update_cache"] is True


def test_a_host_that_asks_etcd_is_known_before_a_member_starts() -> None:
    parts = [task["ansible.builtin.include_role"].get("tasks_from", "main") for task in tasks("election.yml")]
    # Last the hubs, which get the certificates of all.
    assert parts == ["identity", "main", "trust"]
