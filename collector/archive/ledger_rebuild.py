# ruff: noqa: S608 - statements are composed of constants
"""
Shrinking the ledger of an earlier release, which had no bound in bytes, into a new file beside it.

Changing its tables in place rewrites every row with all its pages: 1 GiB took 14 s and a log of 1.2 GiB, and 6 GiB more
than the 90 s in which systemd expects a service to start.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator

import msgspec

from collector.archive import ledger_bounds
from collector.archive.ledger_bounds import COUNT, REASON_LENGTH, ROW_BYTES
from collector.archive.ledger_entry import short_identity
from collector.archive.ledger_schema import COUNT_FATES, INDEXES, OPEN, OWNER_BY_UID, TABLES, VERSION, create_triggers
from collector.model.decode import MalformedError, decode
from collector.model.marker import MARKER_BYTES, Marker, shortened

READABLE_BYTES = 4 << 20
"""Longest marker that is read to be shortened; those of earlier releases have up to 1 MiB."""

COLUMNS = "id, identity, at_s, trigger, kind, uid, executable, fate, reason, pipeline, case_id, incident, tries"
OPEN_CASES = f"case_id IN (SELECT id FROM earlier.markers WHERE fate IN ({OPEN}))"
# SQLite knows the length of a blob without reading its pages, but not that of a text, which is damaged here.
LENGTH = "CASE typeof(marker) WHEN 'blob' THEN length(marker) END"
SAME = ("notes", "lost", "totals")
"""Tables that are as they were."""


def rebuild(path: str) -> None:
    """
    Replace the file at *path*, if an earlier release has left it larger than a ledger may be.

    The newest markers of ordinary length keep their rows, as do all that are not dealt with yet, shortened if need be;
    the others are counted, and recognized, as deleted ones are. A kill leaves the old file or the new one.

    Raises:
        sqlite3.Error: If the old file is damaged, locked, or the disk is full.
        OSError: From the disk.
    """
    if not _is_too_large(path):
        return
    new = f"{path}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(new)  # of a start that was killed
    try:
        file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.close(file)
        _copy(path, new)
        _replace(new, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(new)


def _is_too_large(path: str) -> bool:
    if os.stat(path).st_size <= 2 * ledger_bounds.MAX_FILE_BYTES:
        return False
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        return "markers" in tables and db.execute("PRAGMA user_version").fetchone()[0] < VERSION


def _copy(path: str, new: str) -> None:
    with contextlib.closing(sqlite3.connect(new, timeout=1.0, isolation_level=None)) as db:
        # Nobody reads this file before it is whole and synced.
        db.executescript("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-4096;")
        db.create_function("short_identity", 1, _short_identity, deterministic=True)
        db.execute("ATTACH ? AS earlier", (path,))
        # Its log is written back and removed: it would be taken for the new file's.
        if db.execute("PRAGMA earlier.journal_mode=DELETE").fetchone()[0] != "delete":
            raise sqlite3.OperationalError("the ledger of an earlier release is locked")
        db.executescript(TABLES)
        db.execute("BEGIN")
        _copy_rows(db)
        _count_others(db)
        _copy_tables(db)
        create_triggers(db)
        db.execute("COMMIT")
        db.executescript(f"{INDEXES} PRAGMA user_version={VERSION};")


def _copy_rows(db: sqlite3.Connection) -> None:
    """Copy the markers of open cases, and the newest others of ordinary length."""
    for row, readable in db.execute(
        f"SELECT id, {LENGTH} <= {READABLE_BYTES} FROM earlier.markers WHERE {OPEN_CASES} ORDER BY id"
    ).fetchall():
        query = "SELECT marker FROM earlier.markers WHERE id = ?"
        text = _short(db.execute(query, (row,)).fetchone()[0]) if readable else b""
        _insert(db, row, "?", text)
    for row in list(_newest(db)):
        _insert(db, row, "marker")


def _newest(db: sqlite3.Connection) -> Iterator[int]:
    """Yield the ids of the closed markers that half of the new file has room for."""
    room = ledger_bounds.MAX_FILE_BYTES // 2
    for row, size in db.execute(
        f"SELECT id, {LENGTH} FROM earlier.markers WHERE NOT {OPEN_CASES} AND {LENGTH} <= ? ORDER BY id DESC",
        (MARKER_BYTES,),
    ):
        if (room := room - size - ROW_BYTES) < 0:
            return
        yield row


def _insert(db: sqlite3.Connection, row: int, marker: str, *text: bytes) -> None:
    """Copy a row, with *marker*, an SQL expression, as what it holds."""
    db.execute(
        f"INSERT OR IGNORE INTO markers ({COLUMNS}, marker, owner) SELECT {COLUMNS}, {marker}, {OWNER_BY_UID}"
        " FROM earlier.markers WHERE id = ?",
        (*text, row),
    )


def _count_others(db: sqlite3.Connection) -> None:
    """Count the markers that have no row any more, and remember their identities, as `ledger_bounds.deletion` does."""
    db.execute(f"UPDATE markers SET bytes = length(marker) + {ROW_BYTES}")
    others = "FROM earlier.markers WHERE id NOT IN (SELECT id FROM main.markers)"
    owner, reason = OWNER_BY_UID, f"substr(reason, 1, {REASON_LENGTH})"
    rows = (
        f"SELECT CAST(at_s / 60 AS INTEGER), {owner}, trigger, fate, {reason}, count(*) {others} GROUP BY 1, 2, 3, 4, 5"
    )
    db.execute(COUNT.format(rows=rows))
    db.execute(
        "INSERT OR IGNORE INTO passed (identity, owner)"
        f" SELECT short_identity(CAST(identity AS BLOB)), {owner} {others} AND identity IS NOT NULL ORDER BY id"
    )


def _copy_tables(db: sqlite3.Connection) -> None:
    earlier = {name for (name,) in db.execute("SELECT name FROM earlier.sqlite_master")}
    for table in earlier.intersection(SAME):
        db.execute(f"INSERT OR IGNORE INTO {table} SELECT * FROM earlier.{table} ORDER BY rowid")
    if "spent" in earlier:
        db.execute("INSERT INTO spent SELECT case_id, at_s, executable, uid, size_bytes, '' FROM earlier.spent")
    db.execute(COUNT_FATES.format(rows="earlier.markers"))


def _replace(new: str, path: str) -> None:
    for name, flags in ((new, os.O_RDWR), (os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)):
        fd = os.open(name, flags | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        if name == new:
            os.replace(new, path)


def _short(text: bytes) -> bytes:
    """Return the encoding of a marker, shortened; nothing if it is damaged, which costs only its row."""
    if len(text) <= MARKER_BYTES:
        return text
    try:
        return msgspec.json.encode(shortened(decode(text, Marker)))
    except MalformedError:
        return b""


def _short_identity(raw: bytes) -> int:
    return short_identity(raw.decode(errors="backslashreplace"))
