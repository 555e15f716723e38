# ruff: noqa: S608 - statements are composed of constants
"""
The ledger, read beside the daemon or without one: nothing is created, written or locked against the writer.

An ordinary read-only connection creates log and index, writes to the index, and leaves both behind. Source:
https://www.sqlite.org/wal.html, "Read-Only Databases"; ``readonly_shm`` in SQLite's os_unix.c.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Iterator
from typing import Any

import msgspec

from collector.archive.layout import LEDGER
from collector.archive.read import ArchiveReader
from collector.model.case import Fate
from collector.model.decode import MalformedError, decode
from collector.model.errors import ArchiveError
from collector.model.units import counted

MARKER_COLUMNS = ("id", "at_s", "trigger", "fate", "reason", "owner", "incident", "case_id", "executable", "marker")
COUNTED_COLUMNS = ("minute", "owner", "trigger", "fate", "reason", "count")
IN_TIME = "(at_s >= ? AND at_s < ? OR typeof(at_s) <> 'real')"
"""Those with a damaged time are counted as damaged."""

BUSY_S = 0.2
ADDED = {"owner": "''"}
"""What the tables of earlier releases lack, and what stands for it."""


class _Pid(msgspec.Struct, frozen=True):
    pid: int


class _Event(msgspec.Struct, frozen=True):
    event: str = ""


class Said(msgspec.Struct, frozen=True):
    """The part of a marker that a list shows."""

    process: _Pid | None = None
    comm: str | None = None
    exe: str | None = None
    uid: int | None = None
    signal: int | None = None
    exit_status: int | None = None
    unit: str | None = None
    attributes: _Event = _Event()


class LedgerRow(msgspec.Struct, frozen=True, array_like=True):
    """A marker and its fate; *at_s* is when it was recorded, by the wall clock, and *id* the order."""

    id: int
    at_s: float
    trigger: str
    fate: str
    reason: str
    owner: str
    incident: str | None
    case: int
    executable: str
    said: Said


class CountedRow(msgspec.Struct, frozen=True, array_like=True):
    """Markers without a row of their own, of one minute since the epoch; they were beyond their owner's share."""

    minute: int
    owner: str
    trigger: str
    fate: str
    reason: str
    count: int


class LedgerReader:
    """
    The ledger of an archive, open for reading; `problems` says, once all was read, what could not be.

    Raises:
        ArchiveError: If it is not a regular file.
    """

    def __init__(self, archive: ArchiveReader) -> None:
        self.problems: list[str] = []
        self.exists = _is_there(archive)
        self._damaged = 0
        self._db = _connect(f"{archive.path}/{LEDGER}", self.problems) if self.exists else sqlite3.connect(":memory:")
        if f"{LEDGER}.damaged" in os.listdir(archive.fd):
            self.problems.append(f"an earlier ledger was damaged, and is set aside as {archive.path}/{LEDGER}.damaged")

    def __enter__(self) -> LedgerReader:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def markers(self, *, since_s: float, until_s: float) -> Iterator[LedgerRow]:
        """Yield the markers that were recorded in that time, in their order."""
        for values in self._rows("markers", MARKER_COLUMNS, IN_TIME, (since_s, until_s)):
            *known, marker = values
            try:
                row = msgspec.convert((*known, decode(marker, Said)), LedgerRow)
            except (MalformedError, msgspec.ValidationError, TypeError):
                self._damaged += 1
            else:
                yield row
        if self._damaged:
            self.problems.append(f"the ledger has {counted(self._damaged, 'damaged row')}")

    def counted(self, *, since_s: float, until_s: float) -> Iterator[CountedRow]:
        """Yield the counts of markers without a row, in minutes that begin in that time, or it in them."""
        where, values = "minute * 60 + 60 > ? AND minute * 60 < ?", (since_s, until_s)
        for row in self._rows("counted", COUNTED_COLUMNS, where, values):
            try:
                yield msgspec.convert(row, CountedRow)
            except msgspec.ValidationError:
                self.problems.append("a count is damaged")

    def of_executable(self, executable: str) -> tuple[set[str], dict[str, int], set[str]]:
        """
        Return an executable's incidents, and how many of its markers have none, by fate; empty if that fails.

        Last, the fates of markers without a row that may be its: those of the same owner.
        """
        incidents = "SELECT DISTINCT incident FROM markers WHERE executable = ? AND incident <> ''"
        others = "SELECT fate, count(*) FROM markers WHERE executable = ? AND incident IS NULL GROUP BY fate"
        try:
            found = {str(row[0]) for row in self._db.execute(incidents, (executable,))}
            by_fate = dict(self._db.execute(others, (executable,)))
            return found, by_fate, self._counted_fates(executable)
        except sqlite3.Error as exc:
            self._unreadable(exc)
            return set(), {}, set()

    def _counted_fates(self, executable: str) -> set[str]:
        """Return the fates of the markers without a row that the owners of an executable's have."""
        if "owner" not in self._columns("markers") & self._columns("counted"):
            return set()
        owners = "SELECT owner FROM markers WHERE executable = ?"
        query = f"SELECT DISTINCT fate FROM counted WHERE owner IN ({owners})"
        return {str(row[0]) for row in self._db.execute(query, (executable,))}

    def incidents_under_way(self) -> set[str]:
        """Return the incidents whose markers have no final fate; empty if that cannot be read."""
        open_fates = [str(fate) for fate in Fate if fate.open]
        query = f"SELECT DISTINCT incident FROM markers WHERE fate IN ({', '.join('?' * len(open_fates))})"
        try:
            return {str(row[0]) for row in self._db.execute(f"{query} AND incident <> ''", open_fates)}
        except sqlite3.Error as exc:
            self._unreadable(exc)
            return set()

    def _rows(self, table: str, names: tuple[str, ...], where: str, values: tuple[float, ...]) -> Iterator[Any]:
        """Yield rows in their order; around a damaged page, those before and those behind it."""
        known = self._columns(table)
        columns = ", ".join(name if name in known else ADDED.get(name, "NULL") for name in names)
        if not known:
            return
        query = f"SELECT rowid, {columns} FROM {table} WHERE {where} ORDER BY rowid"
        last = -1
        try:
            for row in self._db.execute(query, values):
                last = row[0]
                yield row[1:]
        except sqlite3.Error as exc:
            self.problems.append(f"not everything can be read of its table {table}: {exc}")
            yield from reversed(self._behind(f"{query} DESC", values, last))

    def _behind(self, query: str, values: tuple[float, ...], last: int) -> list[Any]:
        found: list[Any] = []
        try:
            for row in self._db.execute(query, values):
                if row[0] <= last:
                    break
                found.append(row[1:])
        except sqlite3.Error:
            pass  # this is the other side of the damage
        return found

    def _columns(self, table: str) -> set[str]:
        try:
            return {str(row[1]) for row in self._db.execute(f"PRAGMA table_info({table})")}
        except sqlite3.Error as exc:
            self._unreadable(exc)
            return set()

    def _unreadable(self, why: sqlite3.Error) -> None:
        """Say it once, whichever table was asked for."""
        if (problem := f"the ledger cannot be read: {why}") not in self.problems:
            self.problems.append(problem)


def _is_there(archive: ArchiveReader) -> bool:
    try:
        status = os.stat(LEDGER, dir_fd=archive.fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(status.st_mode):
        raise ArchiveError(f"{archive.path}/{LEDGER} is not a regular file")
    return True


def _connect(path: str, problems: list[str]) -> sqlite3.Connection:
    """Open the file with its log, or alone if that was written back when it was closed."""
    # Where the log or its index is missing, SQLite would create it.
    logged = os.path.exists(f"{path}-wal") and os.path.exists(f"{path}-shm")
    how = "readonly_shm=1" if logged else "immutable=1"
    if not logged and _size(f"{path}-wal"):
        problems.append(f"{path}-wal cannot be read without its index: the newest markers may be missing")
    db = sqlite3.connect(f"file:{_quoted(path)}?mode=ro&{how}", uri=True, timeout=BUSY_S, isolation_level=None)
    db.text_factory = lambda raw: raw.decode(errors="backslashreplace")  # one damaged text costs only its row
    with contextlib.suppress(sqlite3.Error):  # whoever reads it says so
        db.execute("BEGIN")  # one state of it, whatever the daemon writes meanwhile
    return db


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0


def _quoted(path: str) -> str:
    return path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
