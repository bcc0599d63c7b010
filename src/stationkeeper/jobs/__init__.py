"""Scheduled work on the hub: recorded in the database, with figures for Prometheus."""
