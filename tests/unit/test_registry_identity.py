"""Device identifiers."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stationkeeper.registry.identity import NAMESPACE, device_id

PARTS = st.text(st.characters(blacklist_characters="/", blacklist_categories=("Cs", "Z", "C")), min_size=1)


def test_the_identifier_never_changes() -> None:
    # Literal on purpose: a changed namespace or rule would orphan all stored telemetry.
    assert device_id("flux", "WLCE", "WLCE-BESS-01") == uuid.UUID("ab79127d-a435-5f3c-87bf-8943623e4134")
    assert device_id("flux", "WLCE", "WLCE-BESS-01").version == 5
    assert str(NAMESPACE) == "6f0d4c1e-3b52-5a6e-9d0b-8f1c2e7a4b90"


@given(st.tuples(PARTS, PARTS, PARTS), st.tuples(PARTS, PARTS, PARTS))
def test_different_parts_give_different_identifiers(
    one: tuple[str, str, str], two: tuple[str, str, str]
) -> None:
    assert (device_id(*one) == device_id(*two)) == (one == two)


@pytest.mark.parametrize("parts", [("", "a", "b"), ("a", "b/c", "d"), ("a", " b", "c")])
def test_ambiguous_parts_are_refused(parts: tuple[str, str, str]) -> None:
    with pytest.raises(ValueError, match="device identity"):
        device_id(*parts)
