"""Which of the files that a scan finds are too old to be caught up with, although the wall clock may have been set."""

from __future__ import annotations

import contextlib
import time

import msgspec

from collector.host.clock import ClockRecord, moment
from collector.model.decode import MalformedError, decode
from collector.triggers.base import TriggerContext

STORE_S = 600.0
"""Interval of storing the time; after a reboot, files are caught up with that are older by this much."""


class CatchUp:
    """
    Tells how old a file may be.

    Files have the date of their writing, and the date may have been set since: files from before that would look older
    than they are. So the last known date is continued by running time, and the earlier of this and today's date counts.
    What a date ahead makes doubtful is caught up with: the ledger knows what was collected already.

    Args:
        ctx: Where the date is stored.
        age_s: Files that are older are left alone.
    """

    def __init__(self, ctx: TriggerContext, age_s: float) -> None:
        self._ctx = ctx
        self._age_s = age_s
        self._ahead_since_s: float | None = None
        self._known: ClockRecord | None = None
        """A date, as *clock_s*, that was right as far as is known."""
        with contextlib.suppress(MalformedError):
            self._known = decode(ctx.recall(self._key) or "", ClockRecord)

    @property
    def _key(self) -> str:
        return f"{self._ctx.id}.date"

    def oldest_s(self) -> float:
        """Return the mtime below which a file is too old."""
        date_s = time.time()
        return (date_s if self._known is None else min(date_s, self._known.at(moment()))) - self._age_s

    def keep(self) -> None:
        """
        Store the date, now and then.

        One that was set ahead is believed once all files from before that are too old: they had their scan.
        """
        now, date_s = moment(), time.time()
        known = self._known
        if known is not None and date_s > known.at(now) + 1.0:
            self._ahead_since_s = now.boot_s if self._ahead_since_s is None else self._ahead_since_s
            if now.boot_s - self._ahead_since_s < self._age_s:
                return
        elif known is not None and known.boot_id == now.boot_id and now.boot_s - known.boot_s < STORE_S:
            return
        self._ahead_since_s = None
        self._known = ClockRecord(boot_id=now.boot_id, boot_s=now.boot_s, clock_s=date_s)
        self._ctx.remember(self._key, msgspec.json.encode(self._known).decode())
