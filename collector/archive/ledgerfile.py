"""The file of the ledger: its tables, and how it is opened."""

from __future__ import annotations

import os
import sqlite3
import stat

# Nobody but this daemon writes; a reader (`collector status`) never holds the lock this long.
BUSY_TIMEOUT_S = 0.05
SCHEMA = """
CREATE TABLE IF NOT EXISTS markers (
    id INTEGER PRIMARY KEY,
    identity TEXT UNIQUE,
    at_s REAL NOT NULL,
    trigger TEXT NOT NULL,
    kind TEXT NOT NULL,
    uid INTEGER,
    executable TEXT,
    fate TEXT NOT NULL,
    reason TEXT NOT NULL DEFAULT '',
    pipeline TEXT NOT NULL DEFAULT '',
    case_id INTEGER NOT NULL,
    incident TEXT,
    tries INTEGER NOT NULL DEFAULT 0,
    marker BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS markers_by_fate ON markers (fate);
CREATE INDEX IF NOT EXISTS markers_by_case ON markers (case_id);
CREATE TABLE IF NOT EXISTS notes (key TEXT PRIMARY KEY, text TEXT NOT NULL, at_s REAL NOT NULL);
CREATE TABLE IF NOT EXISTS lost (trigger TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS totals (fate TEXT PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS spent (
    case_id INTEGER PRIMARY KEY, at_s REAL NOT NULL, executable TEXT NOT NULL, uid INTEGER, size_bytes INTEGER NOT NULL
);
"""


def open_file(path: str) -> sqlite3.Connection:
    """Open the file, 0600 and nothing but a regular file; set aside one that is damaged."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(f"{path} is not a regular file")
    finally:
        os.close(fd)
    try:
        return _prepare(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None))
    except sqlite3.OperationalError:
        raise  # a full disk, a lock: the file itself is sound
    except sqlite3.DatabaseError:
        os.replace(path, f"{path}.damaged")
        return _prepare(sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None))


def open_memory() -> sqlite3.Connection:
    """Open the same tables in memory."""
    return _prepare(sqlite3.connect(":memory:", isolation_level=None))


def _prepare(db: sqlite3.Connection) -> sqlite3.Connection:
    """Set the pragmas and make the tables."""
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "wal_autocheckpoint=8000", "cache_size=-512"):
        db.execute(f"PRAGMA {pragma}")
    db.executescript(SCHEMA)
    return db
