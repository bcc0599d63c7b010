"""Gaps, freshness and reconciliation of stored telemetry."""
