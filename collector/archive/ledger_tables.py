"""
The ledger's tables: in a file, or in memory while that cannot be used; bounded.

One SQLite file in WAL mode. With ``synchronous=NORMAL`` it survives the death of the daemon at any instant; a power
cut may lose the last moments, and the catch-up scan finds those cores again. If the file cannot be opened or written,
the same tables are kept in memory, and `problem` says why: a full disk must not stop the collection of evidence.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from typing import Any

from collector.archive import ledger_bounds
from collector.archive.ledger_bounds import deletion, surplus
from collector.archive.ledgerfile import copy_back, copy_open, is_due, open_file, open_memory, used_bytes

SLICES = 4
"""A fat row makes room for several others, but not the other way round."""


class LedgerTables:
    """
    The tables. None of the calls raises.

    `problem` says why the file is not in use; ``None`` while it is. `shift` is row id minus marker number: the file may
    have had rows that could not be read.
    """

    def __init__(self, path: str) -> None:
        """Open or create the file at *path*, in a directory that only its owner can write to."""
        self._path = path
        self._file: sqlite3.Connection | None = None
        self._batch: list[tuple[str, tuple[object, ...]]] = []  # done since BEGIN, and not committed
        self._unchecked = 0
        self._full_at: int | None = None
        self.problem: str | None = None
        self.shift = 0
        try:
            self.db = self._file = open_file(path)
        except (sqlite3.Error, OSError) as exc:
            self.db = open_memory()
            self.problem = f"{path}: {exc}"

    @property
    def may_grow(self) -> bool:
        """Whether the disk has space beyond its reserve."""
        return self._full_at is None

    @property
    def never_opened(self) -> bool:
        """Whether memory was begun without the file."""
        return self._file is None

    def limit_growth(self, *, may_grow: bool) -> None:
        if may_grow:
            self._full_at = None
        elif self._full_at is None:
            self._full_at = self._used()

    def do(self, statement: str, values: tuple[object, ...] = ()) -> None:
        """Execute a statement; if the file fails, continue in memory."""
        try:
            self.db.execute(statement, values)
        except sqlite3.Error as exc:
            if self.db is not self._file:
                return  # memory is full
            self._degrade(exc)
            if statement not in {"BEGIN", "COMMIT"}:
                self.do(statement, values)
            return
        if not self.db.in_transaction:
            self._batch.clear()
        elif statement != "BEGIN":
            self._batch.append((statement, values))

    def all(self, query: str, values: tuple[object, ...] = ()) -> list[Any]:
        """Fetch all rows; none if the file cannot be read."""
        try:
            return self.db.execute(query, values).fetchall()
        except sqlite3.Error as exc:
            if self.db is self._file:
                self._degrade(exc)
            return []

    def one(self, query: str, values: tuple[object, ...] = ()) -> Any:
        """Fetch one value; ``None`` if there is none."""
        rows = self.all(query, values)
        return rows[0][0] if rows else None

    def one_of_file(self, query: str, values: tuple[object, ...]) -> Any:
        """Fetch one value as `one` does; while memory is in use, from the file if that can still be read."""
        found = self.one(query, values)
        if found is None and self._file is not None and self._file is not self.db:
            with contextlib.suppress(sqlite3.Error):
                row = self._file.execute(query, values).fetchone()
                return row[0] if row else None
        return found

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Put everything inside into one transaction, and keep the bounds."""
        self.do("BEGIN")
        try:
            yield
        finally:
            if self._unchecked >= ledger_bounds.SLICE:
                self.bound()
            if self.db.in_transaction:
                self.do("COMMIT")
            self.write_back(at_once=not self.may_grow)

    def added(self) -> None:
        """Count a row, for the bounds."""
        self._unchecked += 1

    def bound(self) -> None:
        """Delete what is beyond the bounds, a few rows more than were added."""
        self._unchecked = 0
        limit = ledger_bounds.MAX_FILE_BYTES if self._full_at is None else self._full_at
        for bound in ledger_bounds.bounds():
            for _ in range(SLICES):
                is_full = bound.table == "markers" and self._used() > limit
                if not (ids := surplus(self.all, bound, is_full=is_full)):
                    break
                self.delete(bound.table, ids)

    def delete(self, table: str, ids: list[int]) -> None:
        """Delete rows; markers are counted instead."""
        for statement, values in deletion(table, ids):
            self.do(statement, values)

    def write_back(self, *, at_once: bool) -> None:
        """Write the log back if it is long; this waits for the disk."""
        if is_due(self._path, at_once=at_once):
            self.do("PRAGMA wal_checkpoint(PASSIVE)")
            # Restarts the log, with a sync that no marker waits for.
            self.do("INSERT OR REPLACE INTO notes VALUES ('ledger.written_back', '', 0)")

    def find_file(self) -> bool:
        """Notice that the file was removed; return to it if it can be used again, and return whether that was so."""
        if self.problem is None and not os.path.exists(self._path):
            self._degrade(sqlite3.OperationalError("the file was removed"))
        return self.problem is not None and self._return_to_file()

    def close(self) -> None:
        """Write everything back and close the file."""
        for connection in {self.db, self._file}:
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()

    def _used(self) -> int:
        try:
            return used_bytes(self.db)
        except sqlite3.Error:
            return 0  # the next statement says so

    def _degrade(self, reason: sqlite3.Error) -> None:
        """Continue in memory, with what is pending and what the current batch has recorded so far."""
        self.problem = f"{self._path}: {reason}"
        memory, batch = open_memory(), self._batch
        with contextlib.suppress(sqlite3.Error):
            if self.db.in_transaction:
                self.db.execute("ROLLBACK")
        copy_open(self.db, memory)
        self.db, self._batch = memory, []
        for statement, values in batch:
            self.do(statement, values)

    def _return_to_file(self) -> bool:
        """Write what was kept in memory to the file; return whether it works again."""
        file = None
        try:
            file = open_file(self._path)
            shift = copy_back(self.db, file, is_new=self._file is None)
        except (sqlite3.Error, OSError) as exc:
            self.problem = f"{self._path}: {exc}"
            if file is not None:
                file.close()
            return False
        if self._file is None:
            self.shift = shift
        self.close()
        self.db = self._file = file
        self.problem = None
        return True
