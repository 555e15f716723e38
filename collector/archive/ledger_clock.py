"""The clock of the budgets' windows, which the ledger keeps: neither a restart nor setting the date moves it."""

from __future__ import annotations

import contextlib
import sqlite3

import msgspec

from collector.host.clock import ClockRecord, moment
from collector.model.decode import MalformedError, decode

CLOCK_NOTE = "ledger.clock"
"""The key of its note in the ledger."""


class LedgerClock:
    """
    Runs while the machine does, boot after boot, and is never behind what was spent last.

    Args:
        db: Where it was stored.
        begin_s: Where it begins if it was not.
    """

    def __init__(self, db: sqlite3.Connection, *, begin_s: float) -> None:
        now = moment()
        spent_s = []
        with contextlib.suppress(sqlite3.Error, MalformedError):
            spent_s += [row[0] for row in db.execute("SELECT at_s FROM spent ORDER BY at_s DESC LIMIT 1")]
            for row in db.execute("SELECT text FROM notes WHERE key = ?", (CLOCK_NOTE,)):
                begin_s = decode(row[0], ClockRecord).at(now)
        self._record = ClockRecord(boot_id=now.boot_id, boot_s=now.boot_s, clock_s=max([begin_s, *spent_s]))

    def now_s(self) -> float:
        return self._record.at(moment())

    def text(self) -> str:
        """Return what `CLOCK_NOTE` is to hold."""
        now = moment()
        return msgspec.json.encode(
            ClockRecord(boot_id=now.boot_id, boot_s=now.boot_s, clock_s=self._record.at(now))
        ).decode()
