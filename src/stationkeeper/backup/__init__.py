"""Backups of the database: what the repository holds, whether it is good, and the figures about it."""
