# ruff: noqa: S608 - statements are composed of constants
"""The ledger's file: how it is opened, and copying between it and memory."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterable

from collector.archive.ledger_clock import CLOCK_NOTE
from collector.archive.ledger_entry import short_identity
from collector.archive.ledger_rebuild import rebuild
from collector.archive.ledger_schema import (
    INDEXES,
    MIGRATION,
    MIGRATION_OF_SPENT,
    OPEN,
    TABLES,
    TRIGGERS,
    VERSION,
    create_triggers,
)

# Only this daemon writes; a reader (`collector status`) never holds the lock this long.
BUSY_TIMEOUT_S = 0.05
# Writing the log back to the file syncs the archive's disk, so it is done while nothing is collected, about every 50
# markers; during a flood that never ends, when the log gets too long for the disk.
WRITE_BACK_BYTES = 1 << 20
MAX_JOURNAL_BYTES = 16 << 20


def open_file(path: str) -> sqlite3.Connection:
    """Open or create the file, mode 0600, which must be a regular file; set a damaged one aside."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    # Not by opening it: closing it again would drop the locks of another connection of this process.
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(f"{path} is not a regular file")
    try:
        rebuild(path)
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
    """Copy the pending markers with all that joined them, and all tables but the markers and those counted."""
    open_cases = f"case_id IN (SELECT id FROM markers WHERE fate IN ({OPEN}))"
    whole = ("notes", "lost", "spent", "over_budget", "totals")
    for table, where in (("markers", open_cases), *((table, "1") for table in whole)):
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
    for name in TRIGGERS:
        file.execute(f"DROP TRIGGER IF EXISTS {name}")
    shift = int(file.execute("SELECT coalesce(max(id), 0) FROM markers").fetchone()[0]) if is_new else 0
    _insert(file, "markers", memory.execute(
        "SELECT id + ?, identity, at_s, trigger, kind, uid, executable, fate, reason, pipeline, case_id + ?,"
        " incident, tries, marker, owner, bytes FROM markers", (shift, shift)))  # fmt: skip
    _insert(
        file,
        "spent",
        memory.execute("SELECT case_id + ?, at_s, executable, uid, size_bytes, owner FROM spent", (shift,)),
    )
    _insert(file, "over_budget", memory.execute("SELECT case_id + ? FROM over_budget", (shift,)))
    _insert(file, "notes", memory.execute("SELECT * FROM notes WHERE key <> ? ORDER BY rowid", (CLOCK_NOTE,)))
    add = "ON CONFLICT DO UPDATE SET count = count + excluded.count"
    _insert(
        file, "counted", memory.execute("SELECT NULL, minute, owner, trigger, fate, reason, count FROM counted"), add
    )
    _insert(file, "passed", memory.execute("SELECT NULL, identity, owner FROM passed"), "ON CONFLICT DO NOTHING")
    for table in ("totals", "lost"):
        _insert(file, table, memory.execute(f"SELECT * FROM {table}"), add if is_new else "")
    create_triggers(file)
    file.execute("COMMIT")
    return shift


def used_bytes(db: sqlite3.Connection) -> int:
    """Return how much of the file is in use; raise `sqlite3.Error` if it cannot be read."""
    pages, unused, page = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("page_count", "freelist_count", "page_size")
    )
    return (pages - unused) * page


def is_due(path: str, *, at_once: bool) -> bool:
    """Return whether the write-ahead log is long enough to be written back now: *at_once*, or if it must be."""
    try:
        return os.stat(f"{path}-wal").st_size >= (WRITE_BACK_BYTES if at_once else MAX_JOURNAL_BYTES)
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
    db.text_factory = lambda raw: raw.decode(errors="backslashreplace")  # one damaged text costs only its row
    db.create_function("short_identity", 1, short_identity, deterministic=True)
    _migrate(db)
    return db


def _migrate(db: sqlite3.Connection) -> None:
    """Create the tables, or add to those of an earlier release what they lack; all of it or nothing."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version >= VERSION:
        return  # without writing: what is pending can be read on a full disk, too
    earlier = {name for (name,) in db.execute("SELECT name FROM sqlite_master")} if version == 0 else set()
    changes = (MIGRATION if "markers" in earlier else "") + (MIGRATION_OF_SPENT if "spent" in earlier else "")
    db.executescript(f"BEGIN IMMEDIATE; {TABLES} {changes} {INDEXES} PRAGMA user_version={VERSION};")
    create_triggers(db)
    db.execute("COMMIT")
