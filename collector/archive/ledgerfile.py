# ruff: noqa: S608 - statements are composed of constants
"""The ledger's file: its tables, how it is opened, and copying between it and memory."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterable, Iterator

from collector.archive.ledger_clock import CLOCK_NOTE
from collector.model.case import Fate

# Only this daemon writes; a reader (`collector status`) never holds the lock this long.
BUSY_TIMEOUT_S = 0.05
OPEN = ", ".join(f"'{fate}'" for fate in Fate if fate.open)
# Fates of markers that opened no case of their own.
PARTS = ", ".join(f"'{fate}'" for fate in (Fate.JOINED, Fate.UNATTRIBUTED))
# Writing the log back to the file syncs the archive's disk, so it is done while nothing is collected, about every 50
# markers; during a flood that never ends, when the log gets too long for the disk.
WRITE_BACK_BYTES = 1 << 20
MAX_JOURNAL_BYTES = 256 << 20
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
    """Open or create the file, mode 0600, which must be a regular file; set a damaged one aside."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    # Not by opening it: closing it again would drop the locks of another connection of this process.
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(f"{path} is not a regular file")
    try:
        return _connect(path)
    except sqlite3.OperationalError:
        raise  # a full disk, a lock: the file itself is sound
    except sqlite3.DatabaseError:
        os.replace(path, f"{path}.damaged")
        return _connect(path)


def open_memory() -> sqlite3.Connection:
    """Create the same tables in memory."""
    return _connect(":memory:")


def copy_open(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """Copy the pending markers with all that joined them, and all tables but the markers."""
    open_cases = f"case_id IN (SELECT id FROM markers WHERE fate IN ({OPEN}))"
    for table, where in (("markers", open_cases), ("notes", "1"), ("lost", "1"), ("spent", "1")):
        with contextlib.suppress(sqlite3.Error):
            _insert(target, table, source.execute(f"SELECT * FROM {table} WHERE {where} ORDER BY rowid").fetchall())


def copy_back(memory: sqlite3.Connection, file: sqlite3.Connection, *, is_new: bool) -> int:
    """
    Write what was kept in memory to the file, in one transaction.

    Args:
        memory: Its markers replace those of the file.
        file: Left unchanged if this fails.
        is_new: Memory was begun without the file: it counted markers from 1, and losses from 0.

    Returns:
        The difference between a marker's row id in the file and in memory.

    Raises:
        sqlite3.Error: From the file.
    """
    file.execute("BEGIN IMMEDIATE")
    shift = int(file.execute("SELECT coalesce(max(id), 0) FROM markers").fetchone()[0]) if is_new else 0
    _insert(file, "markers", memory.execute(
        "SELECT id + ?, identity, at_s, trigger, kind, uid, executable, fate, reason, pipeline, case_id + ?,"
        " incident, tries, marker FROM markers", (shift, shift)))  # fmt: skip
    _insert(file, "spent", memory.execute("SELECT case_id + ?, at_s, executable, uid, size_bytes FROM spent", (shift,)))
    _insert(file, "notes", memory.execute("SELECT * FROM notes WHERE key <> ? ORDER BY rowid", (CLOCK_NOTE,)))
    add = "ON CONFLICT DO UPDATE SET count = count + excluded.count"
    _insert(file, "totals", memory.execute("SELECT * FROM totals"), add)
    _insert(file, "lost", memory.execute("SELECT * FROM lost"), add if is_new else "")
    file.execute("COMMIT")
    return shift


def pruning(*, max_rows: int, max_notes: int) -> Iterator[tuple[str, tuple[object, ...]]]:
    """Yield the statements that count and delete the oldest rows beyond a bound, except pending ones."""
    closed = f"id <= (SELECT max(id) FROM markers) - ? AND fate NOT IN ({OPEN})"
    yield (
        f"INSERT INTO totals SELECT fate, count(*) FROM markers WHERE {closed} GROUP BY fate"
        " ON CONFLICT (fate) DO UPDATE SET count = count + excluded.count",
        (max_rows,),
    )
    yield f"DELETE FROM markers WHERE {closed}", (max_rows,)
    # The order of insertion: at_s is a wall clock's.
    yield "DELETE FROM notes WHERE key NOT IN (SELECT key FROM notes ORDER BY rowid DESC LIMIT ?)", (max_notes,)
    yield "DELETE FROM spent WHERE case_id NOT IN (SELECT case_id FROM spent ORDER BY case_id DESC LIMIT 4096)", ()


def is_due(path: str, *, idle: bool) -> bool:
    """Return whether the write-ahead log is long enough to be written back now."""
    try:
        return os.stat(f"{path}-wal").st_size >= (WRITE_BACK_BYTES if idle else MAX_JOURNAL_BYTES)
    except OSError:
        return False


def _insert(db: sqlite3.Connection, table: str, rows: Iterable[tuple[object, ...]], conflict: str = "") -> None:
    """Insert whole rows; without a *conflict* clause they replace existing ones."""
    verb = "INSERT" if conflict else "INSERT OR REPLACE"
    for row in rows:
        db.execute(f"{verb} INTO {table} VALUES ({', '.join('?' * len(row))}) {conflict}", row)


def _connect(path: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    for pragma in (
        "journal_mode=WAL",
        "synchronous=NORMAL",
        "wal_autocheckpoint=0",  # it would sync during a commit
        "journal_size_limit=0",
        "cache_size=-512",
    ):
        db.execute(f"PRAGMA {pragma}")
    db.executescript(SCHEMA)
    return db
