"""The roles of a cluster: two logins take turns, and neither password comes into a statement."""

from __future__ import annotations

from typing import Any

import pytest

from stationkeeper.database.logins import Found, LoginError, changes, logins, matches, names, verifier

# Made by PostgreSQL 17 of the password abc-123.
OF_POSTGRESQL = (
    "SCRAM-SHA-256$4096:G9WFOlMuHZdR0ae3o+8pUQ==$94oBs1Emg6Wk8ZTEitk/v8mn2NITuUXw6paijkYc+/A="
    ":P+TJhgNLNejzpHmpaiytlacP56kiTtmRTvZQVTAiHns="
)
USER = {"name": "writer", "password": "in-use", "password_other": "", "suffix": "", "groups": ["pg_monitor"]}
SETTLED = {
    "writer": Found(verifier("in-use"), True, frozenset({"pg_monitor"})),
    "writer_b": Found(None, False, frozenset({"writer"})),
}


def told(user: dict[str, Any], found: dict[str, Found]) -> dict[str, list[str]]:
    return {change.login.name: change.told() for change in changes(logins([user]), found)}


def test_a_verifier_of_postgresql_is_understood_and_made() -> None:
    assert matches(OF_POSTGRESQL, "abc-123")
    assert not matches(OF_POSTGRESQL, "abc-124")
    assert matches(verifier("abc-123"), "abc-123")
    assert verifier("abc-123") != verifier("abc-123")
    for unknown in (None, "", "md5c0ffee"):
        assert not matches(unknown, "abc-123")


def test_roles_are_made_once_and_the_twin_has_the_rights_of_the_other() -> None:
    assert told(USER, {}) == {
        "writer": ["created", "has another password", "is a member of pg_monitor"],
        "writer_b": ["created", "is a member of writer"],
    }
    assert told(USER, SETTLED) == {}
    assert names(USER) == ["writer", "writer_b"]
    assert names({"name": "owner"}) == names({"name": "owner", "password_other": None}) == ["owner"]


def test_a_rotation_opens_the_twin_and_closes_the_role() -> None:
    both = USER | {"password_other": "next"}
    assert told(both, SETTLED) == {"writer_b": ["may log in", "has another password"]}
    accepted = SETTLED | {"writer_b": Found(verifier("next"), True, frozenset({"writer"}))}
    assert told(both, accepted) == {}
    switched = USER | {"password": "next", "password_other": "in-use", "suffix": "_b"}
    assert told(switched, accepted) == {}
    retired = switched | {"password_other": ""}
    assert told(retired, accepted) == {"writer": ["may no longer log in", "has no password"]}
    # Back again: the role's turn.
    done = accepted | {"writer": Found(None, False, frozenset({"pg_monitor"}))}
    assert told(retired, done) == {}
    assert told(retired | {"password_other": "third"}, done) == {
        "writer": ["may log in", "has another password"]
    }


def test_a_role_without_a_declared_password_keeps_its_own() -> None:
    owner = {"name": "owner", "login": False}
    assert told(owner, {}) == {"owner": ["created"]}
    assert told(owner, {"owner": Found(verifier("set by hand"), False, frozenset())}) == {}
    assert told(owner, {"owner": Found(None, True, frozenset())}) == {"owner": ["may no longer log in"]}


def test_a_role_that_rules_the_server_does_no_longer() -> None:
    found = SETTLED | {"writer": Found(verifier("in-use"), True, frozenset({"pg_monitor"}), ("superuser",))}
    assert told(USER, found) == {"writer": ["loses superuser"]}


def test_both_twins_replicate_where_that_is_declared_and_nobody_else_does() -> None:
    replicator = {"name": "replicator", "password": "in-use", "password_other": "", "replication": True}
    made = {"created", "may replicate"}
    assert {name: made <= set(words) for name, words in told(replicator, {}).items()} == {
        "replicator": True,
        "replicator_b": True,
    }
    found = {
        "replicator": Found(verifier("in-use"), True, frozenset(), ("replication",)),
        "replicator_b": Found(None, False, frozenset({"replicator"})),
    }
    assert told(replicator, found) == {"replicator_b": ["may replicate"]}
    assert told(replicator | {"replication": False}, found) == {"replicator": ["loses replication"]}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"password": "grün"}, "not printable ASCII"),
        ({"password_other": "a\nb"}, "not printable ASCII"),
        ({"password": None}, "so it needs a password, too"),
        ({"password_other": "in-use"}, "would have one password"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(LoginError, match=words) as refusal:
        logins([USER | change])
    assert "in-use" not in str(refusal.value)


def test_no_password_is_shown() -> None:
    assert "in-use" not in repr(logins([USER]))
    assert "SCRAM" not in repr(SETTLED)
