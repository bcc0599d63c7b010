"""Commissioning: what a device really is and does, proven at low power before anybody relies on it."""

from stationkeeper.commissioning.judge import judge_identity, judge_sign
from stationkeeper.commissioning.procedure import commission
from stationkeeper.commissioning.types import Check, Options, OptionsError, Report

__all__ = [
    "Check",
    "Options",
    "OptionsError",
    "Report",
    "commission",
    "judge_identity",
    "judge_sign",
]
