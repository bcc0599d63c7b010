"""Every built-in profile against its golden vectors: registers to values, and commands to registers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from golden import GoldenClient, Vector, vectors
from stationkeeper.profiles import load_profile, read_points, read_sample, run_recipe
from stationkeeper.profiles.load import DATA

ALL = vectors()


def test_every_profile_has_vectors_and_every_recipe_of_it_is_in_one() -> None:
    for path in DATA.glob("*.yaml"):
        profile = load_profile(path.stem)
        mine = vectors(profile.name)
        assert mine, f"{profile.name} has no golden vectors"
        assert {write.recipe for vector in mine for write in vector.writes} == set(profile.recipes)


@pytest.mark.parametrize("vector", ALL, ids=str)
def test_a_sample_and_single_points_mean_what_the_vector_says(vector: Vector) -> None:
    profile = load_profile(vector.profile)
    client: Any = GoldenClient(vector)
    assert asyncio.run(read_sample(client, 1, profile)) == vector.sample
    # One by one they say the same, scale factors included.
    every = {**vector.sample, **vector.points}
    assert asyncio.run(read_points(client, 1, profile, every)) == every


@pytest.mark.parametrize("vector", [vector for vector in ALL if vector.writes], ids=str)
def test_recipes_send_the_words_of_the_vector(vector: Vector) -> None:
    profile = load_profile(vector.profile)
    for write in vector.writes:
        client: Any = GoldenClient(vector)
        written = asyncio.run(run_recipe(client, 1, profile, write.recipe, power_kw=write.power_kw))
        assert [(step.point, step.address, step.words) for step in written] == write.requests
        assert client.writes == [(address, words) for _, address, words in write.requests]
