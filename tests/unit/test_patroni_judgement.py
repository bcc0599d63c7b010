"""What Patroni and etcd say of a database, told as problems."""

from __future__ import annotations

from typing import Any

from stationkeeper.database.cluster import patroni

HOSTS = ("db-1", "db-2", "db-3")
WELL = dict.fromkeys(HOSTS, True)


def cluster(leader: str | None = "db_1", *, pause: bool = False, **states: str) -> dict[str, Any]:
    """Return Patroni's answer to ``GET /cluster``."""
    members = [
        {
            "name": name,
            "role": "leader" if name == leader else "replica",
            "state": states.get(name, "running" if name == leader else "streaming"),
        }
        for name in ("db_1", "db_2", "db_3")
    ]
    return {"members": members, **({"pause": True} if pause else {})}


def found(
    answers: dict[str, Any], *, etcd: dict[str, bool] | None = None, primary: str | None = "db-1"
) -> list[tuple[str, str | None, str]]:
    problems = patroni.judge(answers, WELL | (etcd or {}), primary)
    return [(problem.kind, problem.host, problem.severity) for problem in problems]


def test_a_whole_cluster_has_no_problem() -> None:
    assert found(dict.fromkeys(HOSTS, cluster())) == []


def test_a_paused_patroni_is_told_once() -> None:
    assert found(dict.fromkeys(HOSTS, cluster(pause=True))) == [("patroni_paused", None, "warning")]


def test_a_host_whose_patroni_or_etcd_is_silent_is_named() -> None:
    answers = dict.fromkeys(HOSTS, cluster()) | {"db-2": None}
    assert found(answers, etcd={"db-3": False}) == [
        ("patroni_silent", "db-2", "critical"),
        ("etcd", "db-3", "critical"),
    ]


def test_no_leader_and_a_leader_that_takes_no_writes_are_told() -> None:
    assert found(dict.fromkeys(HOSTS, cluster(None)), primary=None) == [
        ("patroni_no_leader", None, "critical")
    ]
    assert found(dict.fromkeys(HOSTS, cluster("db_2")), primary="db-1") == [
        ("patroni_disagrees", None, "critical")
    ]


def test_a_member_that_does_not_follow_leads_to_the_runbook() -> None:
    answers = dict.fromkeys(HOSTS, cluster(db_3="start failed"))
    assert found(answers) == [("patroni_member", "db-3", "critical")]
    assert "database_rejoin" in patroni.judge(answers, WELL, "db-1")[0].message


def test_nothing_is_made_up_where_nobody_answers() -> None:
    assert found(dict.fromkeys(HOSTS), primary=None) == [("patroni_silent", h, "critical") for h in HOSTS]
