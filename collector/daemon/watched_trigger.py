"""One trigger: keeps it open, watches its descriptor in the loop, and passes its markers on."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator, Iterator
from itertools import chain
from typing import Literal

from collector.archive.ledger import Ledger
from collector.daemon.intake import Intake
from collector.daemon.journal import get_logger
from collector.daemon.loop import Loop
from collector.daemon.turns import TURN_S, Slice, Turns
from collector.model.errors import CollectorError
from collector.model.marker import Marker
from collector.model.owners import ROOT
from collector.model.shares import PerMinute
from collector.model.text import printable
from collector.pipeline.steps import CompiledTrigger
from collector.triggers.base import Trigger, TriggerContext, Watch

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
MAX_FAILURES = 3
"""Reads in a row that may fail before a trigger is opened again."""

LINES_PER_MINUTE = 60
"""About one trigger; root alone has half of them."""

Source = Literal["read", "poll"]

log = get_logger()


class WatchedTrigger:
    """
    One trigger. While it cannot be opened, or once its source is gone, it is tried again after a growing pause.

    Its markers are taken in slices: what it has begun to read goes on in the next turn of the loop.
    """

    def __init__(
        self,
        trigger: CompiledTrigger[Trigger],
        ctx: TriggerContext,
        loop: Loop,
        intake: Intake,
        ledger: Ledger,
        *,
        turns: Turns,
        changed: Callable[[], None],
    ) -> None:
        self.trigger = trigger
        self.ctx = ctx
        self._loop = loop
        self._turns = turns
        self._intake = intake
        self._ledger = ledger
        self._changed = changed
        self._markers: Iterator[Marker | None] | None = None
        """What was begun and paused."""
        self._source: Source = "poll"
        """Where that comes from."""
        self._wanted: dict[Source, None] = {}
        """What to begin next."""
        self._watch: Watch | None = None
        self._fd = -1
        self._file: tuple[int, ...] = ()
        """What tells the file behind the descriptor from another one with its number."""
        self._opened_s = 0.0
        self._pause_s = 0.0
        self._failures = 0
        """Failed reads since the last good one."""
        self._problem: str | None = None
        self._hint: str | None = None
        self._logged: str | None = None
        self._reported = 0
        self._unlogged = 0
        """What of it is not in the log yet."""
        self._lines = PerMinute(LINES_PER_MINUTE)
        self._cancel: Callable[[], None] = lambda: None
        self._polls = False
        """Whether it will be polled again."""
        self.open()

    @property
    def degraded(self) -> str | None:
        """Why it sees less than it should, or nothing; ``None`` if it sees all; may name what a user chose."""
        reason = self._problem
        if reason is None and self._watch is not None:
            reason = self._watch.gone or self._watch.degraded
        return None if reason is None else printable(reason)

    @property
    def waits_for_successor(self) -> bool:
        return self._watch is not None and self._watch.waits_for_successor

    def open(self) -> None:
        """Open it now, unless it is open."""
        if self._watch is not None:
            return
        self._cancel()
        try:
            self._watch = self.trigger.trigger.open(self.ctx)
        except (CollectorError, OSError) as exc:
            self._fail(exc)
            self._open_later()
            self._log()
            return
        self._opened_s = time.monotonic()
        self._failures = self._reported = 0
        self._polls = False
        self._wanted["poll"] = None
        if self._go_on(Slice(time.monotonic() + TURN_S)):
            self._turns.add(self._go_on)

    def cores_removed(self, removed: frozenset[tuple[int, int]], problem: str | None) -> None:
        """Pass on what the collector removed of its files."""
        if self._watch is not None:
            self._watch.cores_removed(removed, problem)
            self._log()

    def close(self) -> None:
        self._cancel()
        if self._fd >= 0:
            self._loop.unwatch(self._fd)
            self._fd = -1
        self._turns.remove(self._go_on)
        self._wanted.clear()
        self._abandon()
        watch, self._watch = self._watch, None
        if watch is not None:
            with contextlib.suppress(OSError):  # its descriptor may be gone
                watch.close()

    def check(self) -> None:
        """Open it again if its source is gone; log a change of its state; record what it has lost."""
        if self._watch is not None:
            self._record_lost(self._watch)
            gone = self._follow(self._watch)
            if gone is None and self._failures >= MAX_FAILURES:
                gone = self._problem
            if gone is None and (gone := self._watch.gone) is not None:
                self._drain(self._watch)
            if gone is not None:
                self._reopen(gone)
                return
        self._log()

    def _want(self, source: Source) -> None:
        """Begin with *source* once what was begun before is done."""
        self._wanted[source] = None
        self._turns.add(self._go_on)

    def _go_on(self, part: Slice) -> bool:
        """Take markers until *part* is used up; return whether there is more to do."""
        watch = self._watch
        if watch is None:
            return False
        try:
            ended = self._take(watch, part)
        except (CollectorError, OSError) as exc:
            self._abandon()
            ended = True
            self._failures += 1
            self._fail(exc)
        else:
            if ended:
                self._failures = 0
                self._problem = self._hint = None
        if ended:
            self._poll_later(watch)
        self.check()
        return self._markers is not None or bool(self._wanted)

    def _poll_later(self, watch: Watch) -> None:
        """Poll again after its interval: from the last poll, or from now on if it had none until now."""
        if watch.poll_s is not None and (self._source == "poll" or not self._polls):
            self._cancel()
            self._cancel = self._loop.call_later(watch.poll_s, lambda: self._want("poll"))
            self._polls = True
        elif self._source == "poll":
            self._polls = False

    def _take(self, watch: Watch, part: Slice) -> bool:
        """Begin with what is wanted, or go on with what was begun; return whether that has ended."""
        if self._markers is None:
            self._source = next(iter(self._wanted))
            del self._wanted[self._source]
            self._markers = iter(watch.read() if self._source == "read" else watch.poll())
        if self._offer(self._markers, part):
            self._markers = None
        return self._markers is None

    def _abandon(self) -> None:
        """End what was begun; what it has not reached is found again, as after a restart."""
        markers, self._markers = self._markers, None
        if isinstance(markers, Generator):
            with contextlib.suppress(OSError):  # its descriptor may be gone
                markers.close()

    def _follow(self, watch: Watch) -> str | None:
        """Let the loop watch the descriptor once there is one; return why it no longer can."""
        fd = watch.fileno()
        try:
            file = _file_of(fd) if fd >= 0 else ()
        except OSError as exc:
            return f"descriptor {fd}: {exc.strerror}"
        if self._fd >= 0:
            return None if (fd, file) == (self._fd, self._file) else f"descriptor {self._fd} was lost"
        if fd >= 0:
            self._loop.watch(fd, lambda: self._want("read"))
            self._fd, self._file = fd, file
        return None

    def _drain(self, watch: Watch) -> None:
        """Take what still waits in a socket that lost its name."""
        with contextlib.suppress(CollectorError, OSError):
            self._offer(chain(self._markers or (), watch.read()), Slice(time.monotonic() + TURN_S))

    def _offer(self, markers: Iterator[Marker | None], part: Slice) -> bool:
        """Pass on what comes, in one transaction; return whether that was all."""
        with self._ledger.batch():
            for marker in markers:
                if marker is not None:
                    self._intake.offer(marker, self.trigger.pipeline)
                    part.markers -= 1
                if part.is_used_up:
                    return False
        return True

    def _reopen(self, reason: str) -> None:
        """Open it again: immediately if it has worked for long, otherwise after a pause."""
        self.close()
        self._problem, self._hint = reason, None
        self._log()
        if time.monotonic() - self._opened_s >= LONGEST_PAUSE_S:
            self._pause_s = 0.0
            self.open()
        else:
            self._open_later()

    def _open_later(self) -> None:
        self._pause_s = min(LONGEST_PAUSE_S, max(FIRST_PAUSE_S, 2 * self._pause_s))
        self._cancel = self._loop.call_later(self._pause_s, self.open)

    def _fail(self, exc: CollectorError | OSError) -> None:
        self._problem = str(exc).removeprefix(f"trigger {self.trigger.id}: ")  # whoever shows it names the trigger
        self._hint = getattr(exc, "hint", None)

    def _log(self) -> None:
        """Log each change of the state once, unless a user makes it change all the time."""
        now = self.degraded
        if now == self._logged or not self._lines.take(ROOT, time.monotonic()):
            return
        self._logged = now
        if now is None:
            log.info("trigger.restored", trigger=self.trigger.id)
        else:
            write = log.warning if self._watch is not None else log.error
            write("trigger.degraded", trigger=self.trigger.id, reason=now, hint=self._hint)
        self._changed()

    def _record_lost(self, watch: Watch) -> None:
        """Record the markers that the source has lost since the last call."""
        if (count := watch.lost - self._reported) > 0:
            self._reported = watch.lost
            self._ledger.add_lost(self.trigger.id, count)
            self._unlogged += count
        if self._unlogged and self._lines.take(ROOT, time.monotonic()):
            log.warning("markers.lost", trigger=self.trigger.id, count=self._unlogged)
            self._unlogged = 0


def _file_of(fd: int) -> tuple[int, ...]:
    info = os.fstat(fd)
    return info.st_dev, info.st_ino, info.st_mode, info.st_rdev
