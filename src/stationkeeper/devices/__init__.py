"""Devices that come and go: what the inventory declares against what the registry has."""
