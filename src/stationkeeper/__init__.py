"""Stationkeeper: operate fleets of energy and water telemetry stations."""
