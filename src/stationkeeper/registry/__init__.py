"""Devices of a system and their stable identifiers."""
