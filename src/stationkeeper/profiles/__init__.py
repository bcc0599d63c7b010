"""Device profiles: what the registers of a device type mean, as validated YAML."""

from stationkeeper.profiles.access import (
    RecipeError,
    Sample,
    Written,
    decode_sample,
    plan_for_device,
    plan_recipe,
    power_words,
    read_factors,
    read_points,
    read_sample,
    run_recipe,
    write_point,
)
from stationkeeper.profiles.load import ProfileError, load_profile, parse_profile, read_profile
from stationkeeper.profiles.schema import Profile
from stationkeeper.profiles.sunspec import SunSpecError, concrete

__all__ = [
    "Profile",
    "ProfileError",
    "RecipeError",
    "Sample",
    "SunSpecError",
    "Written",
    "concrete",
    "decode_sample",
    "load_profile",
    "parse_profile",
    "plan_for_device",
    "plan_recipe",
    "power_words",
    "read_factors",
    "read_points",
    "read_profile",
    "read_sample",
    "run_recipe",
    "write_point",
]
