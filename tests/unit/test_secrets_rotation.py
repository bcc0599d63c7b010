"""The steps of a rotation: each is a state of the vault, none loses a value that a host may still need."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from stationkeeper.secrets import rotation
from stationkeeper.secrets.credentials import (
    CredentialError,
    accepted,
    outcome,
    proven,
    retired,
    rotations,
    wanted,
)
from stationkeeper.secrets.rotation import RotationError

NOW = datetime(2026, 11, 22, 10, tzinfo=UTC)
SETTLED = {"secret_a": "old", "secret_b": "other", "secret_since": "2026-01-01T00:00:00+00:00"}
CREATED = SETTLED | {"secret_a_next": "new"}
SWITCHED = SETTLED | {
    "secret_a": "new",
    "secret_a_before": "old",
    "secret_a_since": "2026-11-22T10:00:00+00:00",
}
DECLARED = {
    "a": {
        "kind": "redis",
        "variable": "secret_a",
        "user": "u",
        "servers": ["hubs"],
        "clients": {"all": ["jobs"], "hubs": ["x"]},
    }
}
GROUPS = {"all": ["hub", "wlce"], "hubs": ["hub"], "none": []}


def test_the_steps_lead_from_one_value_to_the_next() -> None:
    assert rotation.create(SETTLED, "secret_a", "new") == CREATED
    assert rotation.switch(CREATED, "secret_a", NOW) == SWITCHED
    done = rotation.retire(SWITCHED, "secret_a")
    assert done == SETTLED | {"secret_a": "new", "secret_a_since": "2026-11-22T10:00:00+00:00"}
    assert [rotation.phase(values, "secret_a") for values in (SETTLED, CREATED, SWITCHED, done)] == [
        "settled",
        "created",
        "switched",
        "settled",
    ]


def test_a_step_that_does_not_follow_is_refused() -> None:
    for values in (CREATED, SWITCHED):
        with pytest.raises(RotationError, match="follows after settled"):
            rotation.create(values, "secret_a", "third")
    with pytest.raises(RotationError, match="follows after created"):
        rotation.switch(SETTLED, "secret_a", NOW)
    with pytest.raises(RotationError, match="secret_a is created, and this step follows after switched"):
        rotation.retire(CREATED, "secret_a")


def test_a_vault_that_no_step_leaves_behind_is_refused_without_its_values() -> None:
    with pytest.raises(RotationError, match="both secret_a_next and secret_a_before") as refusal:
        rotation.phase(CREATED | SWITCHED, "secret_a")
    assert "old" not in str(refusal.value).split()
    with pytest.raises(RotationError, match="stationkeeper secrets init"):
        rotation.phase(SETTLED, "secret_c")


def test_the_age_of_a_secret_is_its_own_or_that_of_the_vault() -> None:
    assert rotation.since(SWITCHED, "secret_a") == "2026-11-22T10:00:00+00:00"
    assert rotation.since(SWITCHED, "secret_b") == "2026-01-01T00:00:00+00:00"
    assert rotation.since({"secret_b": "x"}, "secret_b") == ""


def test_a_declaration_becomes_hosts() -> None:
    one = rotations(DECLARED, GROUPS, CREATED)["a"]
    assert one.servers == ("hub",)
    assert one.clients == {"hub": ("jobs", "x"), "wlce": ("jobs",)}
    assert one.phase == "created"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": "carrier pigeon"}, "a: no kind carrier pigeon, there is postgresql, redis"),
        ({"servers": ["none", "hub"]}, "no hosts in none, hub"),
        ({"servers": "hubs"}, "needs kind, variable, user, servers, clients"),
        ({"clients": "hubs"}, "needs kind, variable, user, servers, clients"),
        ({"variable": "secret_c"}, "the vault has no secret_c"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises((CredentialError, RotationError), match=words):
        rotations({"a": DECLARED["a"] | change}, GROUPS, SETTLED)


def test_one_that_nobody_accepts_here_is_left_out() -> None:
    unused = DECLARED["a"] | {"variable": "secret_c", "servers": []}
    assert list(rotations(DECLARED | {"c": unused}, GROUPS, SETTLED)) == ["a"]


def test_two_logins_of_postgresql_take_turns() -> None:
    declared = {"a": DECLARED["a"] | {"kind": "postgresql", "servers": ["hubs", "all"]}}
    first = rotations(declared, GROUPS, CREATED)["a"]
    assert (first.login, first.other, first.servers) == ("u", "u_b", ("hub", "wlce"))
    switched = rotation.switch(CREATED, "secret_a", NOW, first.next_suffix)
    assert switched == SWITCHED | {"secret_a_suffix": "_b"}
    second = rotations(declared, GROUPS, switched)["a"]
    assert (second.login, second.other) == ("u_b", "u")
    settled = rotation.retire(switched, "secret_a")
    again = rotation.create(settled, "secret_a", "third")
    back = rotation.switch(again, "secret_a", NOW, second.next_suffix)
    assert back["secret_a_suffix"] == ""
    assert rotations(declared, GROUPS, back)["a"].login == "u"
    # One that has both values has one name.
    redis = rotations(DECLARED, GROUPS, CREATED)["a"]
    assert (redis.login, redis.other, redis.next_suffix) == ("u", "u", "")


def test_without_names_what_is_unfinished_is_meant() -> None:
    declared = DECLARED | {"b": DECLARED["a"] | {"variable": "secret_b"}}
    found = rotations(declared, GROUPS, SWITCHED)
    assert list(wanted(found, [])) == ["a"]
    assert list(wanted(found, ["b"])) == ["b"]
    with pytest.raises(CredentialError, match=r"no credential c: .* declares a, b"):
        wanted(found, ["c"])


def _found(phase: str) -> dict[str, dict[str, object]]:
    return {
        "a": {"phase": phase, "servers": ["hub"], "clients": {"hub": ["x"], "wlce": ["jobs"]}, "since": ""}
    }


def test_the_value_before_is_refused_only_when_every_client_has_proven_the_new_one() -> None:
    facts: dict[str, dict[str, object]] = {"hub": {"rotation_proven": ["a"]}, "wlce": {}}
    assert proven(_found("switched"), facts) == []
    assert outcome(_found("switched"), facts, "hub") == {
        "status": "ok",
        "message": "a: both values are valid until the new one is proven by wlce",
    }
    facts["wlce"]["rotation_proven"] = ["a"]
    assert proven(_found("switched"), facts) == ["a"]
    # Not even then, while nobody was switched.
    assert proven(_found("created"), facts) == []


def test_nobody_is_switched_before_every_server_accepts_both() -> None:
    facts: dict[str, dict[str, object]] = {"hub": {}, "wlce": {}}
    assert accepted(_found("created"), facts) == []
    assert "is accepted by hub" in outcome(_found("created"), facts, "hub")["message"]
    facts["hub"]["rotation_accepted"] = ["a"]
    assert accepted(_found("created"), facts) == ["a"]


def test_what_a_host_says_at_the_end() -> None:
    facts: dict[str, dict[str, object]] = {
        "hub": {"rotation_proven": ["a"], "rotation_retired": ["a"]},
        "wlce": {"rotation_failed": {"a": "no route"}},
        "lfce": {},
    }
    assert retired(_found("switched"), facts) == ["a"]
    assert outcome(_found("switched"), facts, "hub") == {"status": "changed", "message": "a: rotated"}
    assert outcome(_found("switched"), facts, "wlce") == {"status": "failed", "message": "a: no route"}
    assert outcome(_found("switched"), facts, "lfce")["message"] == "has none of these"
    assert outcome({}, facts, "lfce")["message"] == "no rotation is unfinished"
    facts["hub"] = {}
    assert "would get another value" in outcome(_found("settled"), facts, "hub")["message"]
