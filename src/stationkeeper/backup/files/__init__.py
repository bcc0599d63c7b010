"""Backups of files and of the cache: restic to the host that keeps them."""
