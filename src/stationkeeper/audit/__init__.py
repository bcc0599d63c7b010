"""Signed, chained audit records."""
