"""An inventory has the groups that it needs: site.yml must not ask for another one's hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

SITE = Path(__file__).resolve().parents[2] / "playbooks" / "site.yml"
#: Without these site.yml has nothing to do, or its host pattern matches nobody.
ALWAYS = {"all"}


def tasks(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield every task of plays and blocks."""
    for entry in entries:
        inner = [task for key in ("pre_tasks", "tasks", "post_tasks", "block") for task in entry.get(key, [])]
        yield from tasks(inner)
        yield {key: value for key, value in entry.items() if key not in ("tasks", "post_tasks", "block")}


def test_a_group_that_an_inventory_may_lack_is_asked_for_with_care() -> None:
    """`inventories/flux-patroni` has databases only, and converges."""
    found = list(tasks(yaml.safe_load(SITE.read_text())))
    assert any("groups['stations']" in str(task) for task in found)
    for task in found:
        text = yaml.safe_dump(task, width=10_000).replace("''", "'")
        guarded = set(
            re.findall(r"groups\['(\w+)'\] \| default\(\[\]\) \| length > 0", str(task.get("when")))
        )
        bare = set(re.findall(r"groups\['(\w+)'\](?! \| default\(\[\]\))", text)) - ALWAYS - guarded
        # Hosts of a group know it: `hosts: databases` matches nobody without it.
        assert bare <= {"databases"}, f"{task.get('name')}: {bare}"


def test_etcd_is_left_alone_where_an_inventory_has_none() -> None:
    """`inventories/flux` has one database host, and nothing of an election on it."""
    found = [
        task
        for task in tasks(yaml.safe_load(SITE.read_text()))
        if (task.get("ansible.builtin.include_role") or {}).get("name") in ("etcd", "patroni")
        or "election.yml" in str(task.get("ansible.builtin.include_tasks"))
    ]
    assert len(found) >= 3
    for task in found:
        guards = str(task.get("when")).replace('"', "'")
        assert "groups['etcd']" in guards or "patroni" in guards, task["name"]
