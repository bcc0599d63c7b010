"""Device profiles: what the registers of a device type mean, as validated YAML."""

from stationkeeper.profiles.access import (
    RecipeError,
    Sample,
    Written,
    decode_sample,
    plan_recipe,
    power_words,
    read_points,
    read_sample,
    run_recipe,
    write_point,
)
from stationkeeper.profiles.load import ProfileError, load_profile, parse_profile, read_profile
from stationkeeper.profiles.schema import Profile

__all__ = [
    "Profile",
    "ProfileError",
    "RecipeError",
    "Sample",
    "Written",
    "decode_sample",
    "load_profile",
    "parse_profile",
    "plan_recipe",
    "power_words",
    "read_points",
    "read_profile",
    "read_sample",
    "run_recipe",
    "write_point",
]
