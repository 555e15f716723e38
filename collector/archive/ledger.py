# ruff: noqa: S608 - statements are composed of constants
"""
The ledger: every marker ever seen and its fate, and the little other state that must survive the daemon.

One SQLite file in WAL mode. With ``synchronous=NORMAL`` it survives the death of the daemon at any instant; a power
cut may lose the last moments, and the catch-up scan finds those cores again. If the file cannot be opened or written,
the same tables are kept in memory, and `problem` says why: a full disk must not stop the collection of evidence.
Memory is bounded like the file.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from collector.archive.ledger_clock import CLOCK_NOTE, LedgerClock
from collector.archive.ledgerfile import OPEN, PARTS, copy_back, copy_open, is_due, open_file, open_memory, pruning
from collector.model.budgets import Spent
from collector.model.case import Fate, executable
from collector.model.marker import Marker

# Most rows kept, about 60 MB.
MAX_ROWS = 100_000
MAX_NOTES = 4096
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Marker).decode


class LedgerEntry(NamedTuple):
    """A marker with its number, fate and pipeline, how often it was tried, and the incident begun for it."""

    id: int
    marker: Marker
    fate: Fate
    pipeline: str
    tries: int
    incident: str | None


def identity(marker: Marker) -> str | None:
    """
    Return a key by which a marker is recognized after a restart; ``None`` if it cannot be seen twice.

    A core is identified by device, inode, size and mtime: not by its path, which the next core may reuse, nor its
    ctime, which hard-linking it changes. Other markers have the key in ``attributes["identity"]``.
    """
    if marker.core is not None:
        core = marker.core
        return f"core:{core.device}:{core.inode}:{core.size_bytes}:{core.mtime_ns}"
    source = marker.attributes.get("identity")
    return f"{marker.trigger}:{source}" if source else None


class Ledger:
    """
    The ledger. All calls are short; none raises.

    `problem` says why the file is not in use; ``None`` while it is.
    """

    def __init__(self, path: str) -> None:
        """Open or create the ledger at *path*, in a directory that only its owner can write to."""
        self._path = path
        self._file: sqlite3.Connection | None = None
        self.problem: str | None = None
        self._batch: list[tuple[str, tuple[object, ...]]] = []  # done since BEGIN, and not committed
        try:
            self._db = self._file = open_file(path)
        except (sqlite3.Error, OSError) as exc:
            self._db = open_memory()
            self.problem = f"{path}: {exc}"
        self._clock = LedgerClock(self._db, begin_s=time.time())  # what earlier releases entered was a date
        self._shift = 0  # row id minus marker number: the file may have had rows that could not be read
        self._regained = False
        self._next_id = 1 + int(self._one("SELECT coalesce(max(id), 0) FROM markers") or 0)
        self.remember(CLOCK_NOTE, self._clock.text())

    def seen(self, marker: Marker) -> Fate | None:
        """Return the fate of a marker that is recorded already, ``None`` for a new one."""
        key = identity(marker)
        if key is None:
            return None
        query = "SELECT fate FROM markers WHERE identity = ?"
        found = self._one(query, (key,))
        if found is None and self._file is not None and self._file is not self._db:
            with contextlib.suppress(sqlite3.Error):  # the file may still be readable
                row = self._file.execute(query, (key,)).fetchone()
                found = row[0] if row else None
        return Fate(str(found)) if found is not None else None

    def record(self, marker: Marker, *, pipeline: str, fate: Fate = Fate.RECORDED, reason: str = "") -> int:
        """Record a marker, before anything is decided about it; return its number."""
        number, self._next_id = self._next_id, self._next_id + 1
        row = number + self._shift
        self._do(
            "INSERT OR IGNORE INTO markers (id, identity, at_s, trigger, kind, uid, executable, fate, reason,"
            " pipeline, case_id, marker) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (row, identity(marker), time.time(), marker.trigger, marker.kind, marker.uid, executable(marker), fate,
             reason, pipeline, row, _encode(marker)),
        )  # fmt: skip
        return number

    def decide(self, number: int, fate: Fate, *, reason: str = "", case: int | None = None) -> None:
        """Record the decision about marker *number*: its fate, and the case that it belongs to."""
        row = number + self._shift
        case = row if case is None else case + self._shift
        self._do(
            "UPDATE markers SET fate = ?, reason = ?, case_id = ?,"
            " incident = coalesce(incident, (SELECT incident FROM markers WHERE id = ?)) WHERE id = ?",
            (fate, reason, case, case, row),
        )

    def begin(self, case: int, incident: str) -> None:
        """Record that *incident* is begun for *case*, before anything of it is on disk."""
        case += self._shift
        self._do("UPDATE markers SET incident = ?, tries = tries + 1 WHERE case_id = ?", (incident, case))
        self._do(
            "INSERT OR REPLACE INTO spent SELECT id, ?, executable, uid, 0 FROM markers WHERE id = ?",
            (self._clock.now_s(), case),
        )

    def finish(self, case: int, fate: Fate, *, incident: str | None, reason: str = "", size_bytes: int = 0) -> None:
        """Record the end of *case*; markers that are only part of it keep their fate and get the incident."""
        case += self._shift
        self._do(
            "UPDATE markers SET incident = coalesce(?, incident),"
            " reason = CASE WHEN id = case_id AND ? != '' THEN ? ELSE reason END,"
            f" fate = CASE WHEN fate IN ({PARTS}) THEN fate ELSE ? END WHERE case_id = ?",
            (incident, reason, reason, fate, case),
        )
        if size_bytes:
            self._do("UPDATE spent SET size_bytes = ? WHERE case_id = ?", (size_bytes, case))

    def recovered(self, incident: str, fate: Fate) -> None:
        """Record the fate of *incident*, sealed by a later start, in place of what its own run recorded."""
        self._do(f"UPDATE markers SET fate = ? WHERE incident = ? AND fate NOT IN ({PARTS})", (fate, incident))

    def pending(self) -> list[LedgerEntry]:
        """Return the markers not dealt with, oldest first: a restart retries each once, or seals its incident."""
        rows = self._all(
            f"SELECT id, marker, fate, pipeline, tries, incident FROM markers WHERE fate IN ({OPEN})"
            " ORDER BY id LIMIT 1000"
        )
        return [LedgerEntry(row[0] - self._shift, _decode(row[1]), Fate(row[2]), *row[3:]) for row in rows]

    def regained(self) -> list[LedgerEntry]:
        """
        Return, once, what is `pending` from an earlier run if its file could not be opened before.

        Those numbers are below the ones that this run assigned.
        """
        regained, self._regained = self._regained, False
        return [entry for entry in self.pending() if entry.id <= 0] if regained else []

    def joined(self, case: int) -> list[Marker]:
        """Return the other markers of *case*, oldest first; the case itself holds far fewer."""
        case += self._shift
        query = "SELECT marker, fate FROM markers WHERE case_id = ? AND id <> ? ORDER BY id LIMIT 1000"
        return [
            msgspec.structs.replace(_decode(marker), attributed=fate != Fate.UNATTRIBUTED)
            for marker, fate in self._all(query, (case, case))
        ]

    def counts(self) -> dict[str, int]:
        """Return the number of markers by fate, including those whose rows were pruned."""
        totals = dict(self._all("SELECT fate, count FROM totals"))
        for fate, count in self._all("SELECT fate, count(*) FROM markers GROUP BY fate"):
            totals[fate] = totals.get(fate, 0) + count
        return totals

    def spent(self, *, window_s: float, now_s: float) -> list[Spent]:
        """Return what was spent within *window_s*, oldest first, with times on the clock that now shows *now_s*."""
        clock_s = self._clock.now_s()
        rows = self._all(
            "SELECT at_s, executable, uid, size_bytes FROM spent WHERE at_s > ? ORDER BY at_s", (clock_s - window_s,)
        )
        return [
            Spent(at_s=now_s - (clock_s - at_s), executable=name, uid=uid, size_bytes=size_bytes)
            for at_s, name, uid, size_bytes in rows
        ]

    def add_lost(self, trigger: str, count: int) -> None:
        """Add to the number of crashes that a trigger reports as lost."""
        self._do(
            "INSERT INTO lost VALUES (?, ?) ON CONFLICT (trigger) DO UPDATE SET count = count + excluded.count",
            (trigger, count),
        )

    def lost(self) -> dict[str, int]:
        """Return the crashes reported as lost, by trigger."""
        return dict(self._all("SELECT trigger, count FROM lost"))

    def remember(self, key: str, text: str) -> None:
        self._do("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", (key, text, time.time()))

    def recall(self, key: str) -> str | None:
        """Return a text that `remember` stored; ``None`` if there is none."""
        found = self._one("SELECT text FROM notes WHERE key = ?", (key,))
        return None if found is None else str(found)

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Put everything recorded inside into one transaction: the markers that a trigger delivers together."""
        self._do("BEGIN")
        try:
            yield
        finally:
            if self._db.in_transaction:
                self._do("COMMIT")

    def tidy(self, *, idle: bool) -> None:
        """
        Prune, and return to the file if it can be written again.

        Args:
            idle: Nothing is being collected, so a long log may be written back, which waits for the disk.
        """
        if self.problem is None and not os.path.exists(self._path):
            self._degrade(sqlite3.OperationalError("the file was removed"))
        if self.problem is not None:
            self._return_to_file()
        self.remember(CLOCK_NOTE, self._clock.text())
        with self.batch():
            for statement, values in pruning(max_rows=MAX_ROWS, max_notes=MAX_NOTES):
                self._do(statement, values)
        if is_due(self._path, idle=idle):
            self._do("PRAGMA wal_checkpoint(PASSIVE)")
            self.remember("ledger.written_back", "")  # restarts the log, with a sync that no marker waits for

    def close(self) -> None:
        """Write everything back and close the file."""
        self.remember(CLOCK_NOTE, self._clock.text())
        for connection in {self._db, self._file}:
            if connection is not None:
                with contextlib.suppress(sqlite3.Error):
                    connection.close()

    def _do(self, statement: str, values: tuple[object, ...] = ()) -> None:
        """Execute a statement; if the file fails, continue in memory."""
        try:
            self._db.execute(statement, values)
        except sqlite3.Error as exc:
            if self._db is not self._file:
                return  # memory is full
            self._degrade(exc)
            if statement not in {"BEGIN", "COMMIT"}:
                self._do(statement, values)
            return
        if not self._db.in_transaction:
            self._batch.clear()
        elif statement != "BEGIN":
            self._batch.append((statement, values))

    def _all(self, query: str, values: tuple[object, ...] = ()) -> list[Any]:
        """Fetch all rows; none if the file cannot be read."""
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as exc:
            if self._db is self._file:
                self._degrade(exc)
            return []

    def _one(self, query: str, values: tuple[object, ...] = ()) -> Any:
        rows = self._all(query, values)
        return rows[0][0] if rows else None

    def _degrade(self, reason: sqlite3.Error) -> None:
        """Continue in memory, with what is pending and what the current batch has recorded so far."""
        self.problem = f"{self._path}: {reason}"
        memory, batch = open_memory(), self._batch
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        copy_open(self._db, memory)
        self._db, self._batch = memory, []
        for statement, values in batch:
            self._do(statement, values)

    def _return_to_file(self) -> None:
        """Write what was kept in memory to the file, if it works again."""
        file = None
        try:
            file = open_file(self._path)
            shift = copy_back(self._db, file, is_new=self._file is None)
        except (sqlite3.Error, OSError) as exc:
            self.problem = f"{self._path}: {exc}"
            if file is not None:
                file.close()
            return
        if self._file is None:
            self._shift, self._regained = shift, True
        self.close()
        self._clock = LedgerClock(file, begin_s=self._clock.now_s())
        self._db = self._file = file
        self.problem = None
