"""Writes to a device that are proven by reading back, or reported as not proven."""
