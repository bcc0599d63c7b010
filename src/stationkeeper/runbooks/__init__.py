"""Runbook descriptions, inputs, locks and the pending ledger."""
