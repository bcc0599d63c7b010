"""Drills: faults that heal themselves, what they cost, and the report."""
