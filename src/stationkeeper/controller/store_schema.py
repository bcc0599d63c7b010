"""Tables and statements of the store (SQLite)."""

from __future__ import annotations

import sqlite3

TABLES = """
CREATE TABLE IF NOT EXISTS samples (
  id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, device_id TEXT NOT NULL, boot_id TEXT NOT NULL,
  seq INTEGER NOT NULL, time_us INTEGER NOT NULL, time_quality TEXT NOT NULL, payload TEXT NOT NULL,
  monotonic_us INTEGER, host_boot TEXT NOT NULL DEFAULT '', uploaded_us INTEGER,
  UNIQUE (device_id, boot_id, seq)) STRICT;
CREATE TABLE IF NOT EXISTS rejected (
  id INTEGER PRIMARY KEY, kind TEXT NOT NULL, device_id TEXT NOT NULL, boot_id TEXT NOT NULL,
  seq INTEGER NOT NULL, time_us INTEGER NOT NULL, time_quality TEXT NOT NULL, payload TEXT NOT NULL,
  reason TEXT NOT NULL, rejected_us INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS dropped (
  id INTEGER PRIMARY KEY, device_id TEXT NOT NULL, boot_id TEXT NOT NULL, first_seq INTEGER NOT NULL,
  last_seq INTEGER NOT NULL, first_us INTEGER NOT NULL, last_us INTEGER NOT NULL,
  rows INTEGER NOT NULL, reason TEXT NOT NULL DEFAULT 'store full',
  uploaded_rows INTEGER NOT NULL DEFAULT 0) STRICT;
CREATE TABLE IF NOT EXISTS counter (
  only INTEGER PRIMARY KEY CHECK (only = 1), rows INTEGER NOT NULL) STRICT;
"""
# Columns that a store of an earlier version lacks.
ADDED = {
    "samples": {
        "monotonic_us": "INTEGER",
        "host_boot": "TEXT NOT NULL DEFAULT ''",
        "uploaded_us": "INTEGER",
    },
    "dropped": {
        "reason": "TEXT NOT NULL DEFAULT 'store full'",
        "uploaded_rows": "INTEGER NOT NULL DEFAULT 0",
    },
}
# The counter holds the rows that wait; the indexes keep both kinds quick to find in a large store.
DERIVED = """
CREATE INDEX IF NOT EXISTS waiting ON samples (id) WHERE uploaded_us IS NULL;
CREATE INDEX IF NOT EXISTS kept ON samples (uploaded_us, id) WHERE uploaded_us IS NOT NULL;
INSERT OR IGNORE INTO counter SELECT 1, count(*) FROM samples WHERE uploaded_us IS NULL;
DROP TRIGGER IF EXISTS counted;
DROP TRIGGER IF EXISTS discounted;
CREATE TRIGGER IF NOT EXISTS row_came AFTER INSERT ON samples WHEN NEW.uploaded_us IS NULL
  BEGIN UPDATE counter SET rows = rows + 1; END;
CREATE TRIGGER IF NOT EXISTS row_went AFTER DELETE ON samples WHEN OLD.uploaded_us IS NULL
  BEGIN UPDATE counter SET rows = rows - 1; END;
CREATE TRIGGER IF NOT EXISTS row_changed AFTER UPDATE OF uploaded_us ON samples
  WHEN (NEW.uploaded_us IS NULL) <> (OLD.uploaded_us IS NULL)
  BEGIN UPDATE counter SET rows = rows + iif(NEW.uploaded_us IS NULL, 1, -1); END;
"""
COLUMNS = "id, kind, device_id, boot_id, seq, time_us, time_quality, payload, monotonic_us, host_boot"
INSERT = (
    f"INSERT INTO samples ({COLUMNS.removeprefix('id, ')}) "  # noqa: S608 (column names of this file)
    # A COMMIT that failed towards us may have succeeded on the disk; then the same sample comes again.
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (device_id, boot_id, seq) DO NOTHING"
)
# Rows whose time may still be corrected are held back: those of this start of the host, while they are young.
_READY = (
    "uploaded_us IS NULL AND NOT (time_quality = 'unsynchronised' AND host_boot = ? "
    "AND coalesce(monotonic_us, 0) > ?)"
)
_WAITING = f"SELECT {COLUMNS} FROM samples WHERE {_READY}"  # noqa: S608 (columns and condition of this file)
OLDEST = f"{_WAITING} ORDER BY id LIMIT ?"
NEWEST = f"{_WAITING} AND id > ? ORDER BY id DESC LIMIT ?"
REJECT = (
    "INSERT OR REPLACE INTO rejected "
    "(id, kind, device_id, boot_id, seq, time_us, time_quality, payload, reason, rejected_us) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
REQUEUE = (
    "INSERT INTO samples (id, kind, device_id, boot_id, seq, time_us, time_quality, payload) "
    "SELECT id, kind, device_id, boot_id, seq, time_us, time_quality, payload FROM rejected"
)
CORRECT = (
    "UPDATE samples SET time_us = monotonic_us + ?, time_quality = 'corrected' "
    "WHERE uploaded_us IS NULL AND time_quality = 'unsynchronised' AND host_boot = ? "
    "AND monotonic_us IS NOT NULL"
)


def prepare(connection: sqlite3.Connection) -> None:
    """Create what is missing, and bring a store of an earlier version up to date. Raises sqlite3.Error."""
    connection.executescript(TABLES)
    for table, columns in ADDED.items():
        present = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        for name, declaration in columns.items():
            if name not in present:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {declaration}")
    connection.executescript(DERIVED)
