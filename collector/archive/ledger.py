# ruff: noqa: S608 - statements are composed of constants
"""
The ledger: every marker ever seen and its fate, and the little other state that must survive the daemon.

It is bounded (`ledger_bounds`): beyond an owner's share of rows his markers are counted, and the oldest rows of the
owner who holds most are deleted, and counted instead.
"""

from __future__ import annotations

import contextlib
import time
from typing import NamedTuple

import msgspec

from collector.archive import ledger_bounds
from collector.archive.ledger_bounds import COUNT, ROW_BYTES
from collector.archive.ledger_clock import CLOCK_NOTE, LedgerClock
from collector.archive.ledger_entry import LedgerEntry, identity, readable, short_identity
from collector.archive.ledger_schema import ADD, OPEN, PARTS
from collector.archive.ledger_tables import LedgerTables
from collector.model.budgets import Spent
from collector.model.case import Fate, executable
from collector.model.marker import Marker
from collector.model.owners import UNKNOWN
from collector.model.shares import PerMinute

MAX_NOTES = 4096
MAX_SPENT = 4096
ENTRY = "id, marker, fate, pipeline, tries, incident"
FATES = frozenset(Fate)
_encode = msgspec.json.Encoder().encode


class _Announced(NamedTuple):
    """A marker before it has a row."""

    marker: Marker
    pipeline: str
    owner: str


class Ledger:
    """
    The ledger. All calls are short; none raises.

    `problem` says why the file is not in use; ``None`` while it is.
    """

    def __init__(self, path: str) -> None:
        """Open or create the ledger at *path*, in a directory that only its owner can write to."""
        self._tables = LedgerTables(path)
        self._clock = LedgerClock(self._tables.db, begin_s=time.time())  # what earlier releases entered was a date
        self._regained = False
        self._shares = PerMinute(ledger_bounds.ROWS_PER_MINUTE)
        self._announced: dict[int, _Announced] = {}
        """Markers beyond their owner's share that are not decided yet."""
        self._beyond: set[int] = set()
        """Those that have a row only while their case is open."""
        self._next_id = 1 + int(self._tables.one("SELECT coalesce(max(id), 0) FROM markers") or 0)
        self.remember(CLOCK_NOTE, self._clock.text())

    @property
    def problem(self) -> str | None:
        return self._tables.problem

    def seen(self, marker: Marker) -> Fate | None:
        """Return the fate of a marker that is recorded already, ``None`` for a new one."""
        key = identity(marker)
        if key is None:
            return None
        query = "SELECT fate FROM markers WHERE identity = ? UNION ALL SELECT '' FROM passed WHERE identity = ?"
        values = key, short_identity(key)
        found = self._tables.one_of_file(query, values)
        if found is None:
            return None
        return Fate(found) if found in FATES else Fate.SUPPRESSED  # of one without a row, nothing else is known

    def has_share(self, owner: str) -> bool:
        """Return whether *owner* may have one more row this minute, and count it."""
        return self._tables.may_grow and self._shares.take(owner, time.monotonic())

    def record(
        self, marker: Marker, *, pipeline: str, owner: str = UNKNOWN, fate: Fate = Fate.RECORDED, reason: str = ""
    ) -> int:
        """Record a marker, before anything is decided about it; return its number."""
        number, self._next_id = self._next_id, self._next_id + 1
        self._enter(number, _Announced(marker, pipeline, owner), fate, reason)
        return number

    def announce(self, marker: Marker, *, pipeline: str, owner: str) -> int:
        """Return the number of a marker beyond its owner's share: it has a row only while `decide` leaves it open."""
        number, self._next_id = self._next_id, self._next_id + 1
        self._announced[number] = _Announced(marker, pipeline, owner)
        return number

    def decide(self, number: int, fate: Fate, *, reason: str = "", case: int | None = None) -> None:
        """Record the decision about marker *number*: its fate, and the case that it belongs to."""
        if (announced := self._announced.pop(number, None)) is not None:
            if not fate.open:
                self._count(announced, fate, reason)
                return
            self._beyond.add(number)
            self._enter(number, announced, fate)
        row = number + self._shift
        case = row if case is None else case + self._shift
        self._do(
            "UPDATE markers SET fate = ?, reason = ?, case_id = ?,"
            " incident = coalesce(incident, (SELECT incident FROM markers WHERE id = ?)) WHERE id = ?",
            (fate, reason, case, case, row),
        )
        if number in self._beyond and not fate.open:
            self._beyond.discard(number)
            self._tables.delete("markers", [row])

    def begin(self, case: int, incident: str, *, over_budget: bool = False) -> None:
        """Record that *incident* is begun for *case*, before anything of it is on disk; which of the budgets pays."""
        self._beyond.discard(case)
        case += self._shift
        self._do("UPDATE markers SET incident = ?, tries = tries + 1 WHERE case_id = ?", (incident, case))
        self._do(
            "INSERT OR REPLACE INTO spent SELECT id, ?, executable, uid, 0, owner FROM markers WHERE id = ?",
            (self._clock.now_s(), case),
        )
        change = (
            "INSERT OR IGNORE INTO over_budget VALUES (?)"
            if over_budget
            else "DELETE FROM over_budget WHERE case_id = ?"
        )
        self._do(change, (case,))

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
        rows = self._tables.all(f"SELECT {ENTRY} FROM markers WHERE fate IN ({OPEN}) ORDER BY id LIMIT 1000")
        entries, damaged = readable(rows, shift=self._shift)
        for row in damaged:
            self._do("UPDATE markers SET fate = ?, reason = 'its row is damaged' WHERE id = ?", (Fate.FAILED, row))
        return entries

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
        query = f"SELECT {ENTRY} FROM markers WHERE case_id = ? AND id <> ? ORDER BY id LIMIT 1000"
        entries, _ = readable(self._tables.all(query, (case, case)))
        return [msgspec.structs.replace(entry.marker, attributed=entry.fate != Fate.UNATTRIBUTED) for entry in entries]

    def counts(self) -> dict[str, int]:
        """Return the number of markers by fate, including those without a row."""
        return dict(self._tables.all("SELECT fate, count FROM totals WHERE count > 0 ORDER BY fate"))

    def spent(self, *, window_s: float, now_s: float) -> list[Spent]:
        """Return what was spent within *window_s*, oldest first, with times on the clock that now shows *now_s*."""
        clock_s = self._clock.now_s()
        rows = self._tables.all(
            "SELECT at_s, executable, uid, owner, size_bytes, case_id, case_id IN (SELECT case_id FROM over_budget)"
            " FROM spent WHERE at_s > ? ORDER BY at_s",
            (clock_s - window_s,),
        )
        return [
            Spent(
                at_s=now_s - (clock_s - at_s),
                executable=name,
                uid=uid,
                owner=owner,
                size_bytes=size_bytes,
                case=row - self._shift,
                over_budget=bool(beyond),
            )
            for at_s, name, uid, owner, size_bytes, row, beyond in rows
        ]

    def add_lost(self, trigger: str, count: int) -> None:
        """Add to the number of crashes that a trigger reports as lost."""
        self._do(
            "INSERT INTO lost VALUES (?, ?) ON CONFLICT (trigger) DO UPDATE SET count = count + excluded.count",
            (trigger, count),
        )

    def lost(self) -> dict[str, int]:
        """Return the crashes reported as lost, by trigger."""
        return dict(self._tables.all("SELECT trigger, count FROM lost"))

    def remember(self, key: str, text: str) -> None:
        self._do("INSERT OR REPLACE INTO notes VALUES (?, ?, ?)", (key, text, time.time()))

    def recall(self, key: str) -> str | None:
        """Return a text that `remember` stored; ``None`` if there is none."""
        found = self._tables.one("SELECT text FROM notes WHERE key = ?", (key,))
        return None if found is None else str(found)

    def batch(self) -> contextlib.AbstractContextManager[None]:
        """Put everything recorded inside into one transaction: the markers that a trigger delivers together."""
        return self._tables.batch()

    def tidy(self, *, idle: bool, may_grow: bool = True) -> None:
        """
        Prune, and return to the file if it can be written again.

        Args:
            idle: Nothing is being collected, so a long log may be written back, which waits for the disk.
            may_grow: The disk has space beyond its reserve.
        """
        self._tables.limit_growth(may_grow=may_grow)
        missed = self._tables.never_opened
        if self._tables.find_file():
            self._clock = LedgerClock(self._tables.db, begin_s=self._clock.now_s())
            self._regained = missed
        self.remember(CLOCK_NOTE, self._clock.text())
        with self.batch():
            # The order of insertion: at_s is a wall clock's.
            for table, key, order, most in (
                ("notes", "key", "rowid", MAX_NOTES), ("spent", "case_id", "case_id", MAX_SPENT),
            ):  # fmt: skip
                newest = f"SELECT {key} FROM {table} ORDER BY {order} DESC LIMIT {most}"
                self._do(f"DELETE FROM {table} WHERE {key} NOT IN ({newest})")
            self._do("DELETE FROM over_budget WHERE case_id NOT IN (SELECT case_id FROM spent)")
            self._tables.bound()
        self._tables.write_back(at_once=idle)

    def close(self) -> None:
        """Write everything back and close the file."""
        self.remember(CLOCK_NOTE, self._clock.text())
        self._tables.close()

    def _enter(self, number: int, announced: _Announced, fate: Fate, reason: str = "") -> None:
        marker, pipeline, owner = announced
        row, text = number + self._shift, _encode(marker)
        self._do(
            "INSERT OR IGNORE INTO markers (id, identity, at_s, trigger, kind, uid, executable, fate, reason,"
            " pipeline, case_id, marker, owner, bytes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (row, identity(marker), time.time(), marker.trigger, marker.kind, marker.uid, executable(marker), fate,
             reason, pipeline, row, text, owner, len(text) + ROW_BYTES),
        )  # fmt: skip
        self._tables.added()

    def _count(self, announced: _Announced, fate: Fate, reason: str) -> None:
        """Account for a marker that has no row."""
        marker, _, owner = announced
        minute, reason = int(time.time() // 60), ledger_bounds.counted_reason(fate, reason)
        self._do(COUNT.format(rows="VALUES (?, ?, ?, ?, ?, 1)"), (minute, owner, marker.trigger, fate, reason))
        self._do(f"INSERT INTO totals VALUES (?, 1) {ADD}", (fate,))
        if (key := identity(marker)) is not None:
            self._do("INSERT OR IGNORE INTO passed (identity, owner) VALUES (?, ?)", (short_identity(key), owner))
        self._tables.added()

    @property
    def _shift(self) -> int:
        return self._tables.shift

    def _do(self, statement: str, values: tuple[object, ...] = ()) -> None:
        self._tables.do(statement, values)
