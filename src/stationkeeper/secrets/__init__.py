"""Secrets of an inventory: created once, never shown."""
