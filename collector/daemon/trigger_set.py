"""The triggers: keeps them open, watches their descriptors in the loop, and passes their markers on."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable

from collector.archive.ledger import Ledger
from collector.daemon.intake import Intake
from collector.daemon.journal import get_logger
from collector.daemon.loop import Loop
from collector.host.files import Host
from collector.model.errors import CollectorError
from collector.model.marker import Marker
from collector.pipeline.generation import Generation
from collector.pipeline.steps import CompiledTrigger
from collector.triggers.base import Trigger, TriggerContext, Watch

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
MAX_FAILURES = 3
"""Reads in a row that may fail before a trigger is opened again."""

log = get_logger()


class WatchedTrigger:
    """One trigger. While it cannot be opened, or once its source is gone, it is tried again after a growing pause."""

    def __init__(
        self,
        trigger: CompiledTrigger[Trigger],
        ctx: TriggerContext,
        loop: Loop,
        intake: Intake,
        ledger: Ledger,
        *,
        changed: Callable[[], None],
    ) -> None:
        self.trigger = trigger
        self.ctx = ctx
        self._loop = loop
        self._intake = intake
        self._ledger = ledger
        self._changed = changed
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
        self._cancel: Callable[[], None] = lambda: None
        self.open()

    @property
    def degraded(self) -> str | None:
        """Why it sees less than it should, or nothing; ``None`` if it sees all."""
        if self._problem is not None or self._watch is None:
            return self._problem
        return self._watch.gone or self._watch.degraded

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
        self._poll()

    def close(self) -> None:
        self._cancel()
        if self._fd >= 0:
            self._loop.unwatch(self._fd)
            self._fd = -1
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

    def _read(self) -> None:
        if self._watch is not None:
            self._take(self._watch.read)

    def _poll(self) -> None:
        watch = self._watch
        if watch is None:
            return
        self._take(watch.poll)
        if self._watch is watch and watch.poll_s is not None:
            self._cancel = self._loop.call_later(watch.poll_s, self._poll)

    def _take(self, source: Callable[[], Iterable[Marker]]) -> None:
        try:
            self._offer(source)
        except (CollectorError, OSError) as exc:
            self._failures += 1
            self._fail(exc)
        else:
            self._failures = 0
            self._problem = self._hint = None
        self.check()

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
            self._loop.watch(fd, self._read)
            self._fd, self._file = fd, file
        return None

    def _drain(self, watch: Watch) -> None:
        """Take what still waits in a socket that lost its name."""
        with contextlib.suppress(CollectorError, OSError):
            self._offer(watch.read)

    def _offer(self, source: Callable[[], Iterable[Marker]]) -> None:
        with self._ledger.batch():
            for marker in source():
                self._intake.offer(marker, self.trigger.pipeline)

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
        self._problem = str(exc)
        self._hint = getattr(exc, "hint", None)

    def _log(self) -> None:
        """Log each change of the state once."""
        now = self.degraded
        if now == self._logged:
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
        count = watch.lost - self._reported
        if count > 0:
            self._reported = watch.lost
            self._ledger.add_lost(self.trigger.id, count)
            log.warning("markers.lost", trigger=self.trigger.id, count=count)


class TriggerSet:
    """
    All triggers of the configuration in force.

    Args:
        loop: Watches their descriptors.
        intake: Takes their markers.
        ledger: Stores small texts for them, and counts what they lose.
        changed: Called when the state of one has changed.
    """

    def __init__(self, loop: Loop, intake: Intake, ledger: Ledger, changed: Callable[[], None] = lambda: None) -> None:
        self._loop = loop
        self._intake = intake
        self._ledger = ledger
        self._changed = changed
        self._triggers: list[WatchedTrigger] = []

    def open(self, generation: Generation) -> None:
        """
        Replace the triggers by those of *generation*.

        One that has not changed keeps watching without a gap. One that cannot be opened is tried again by itself.
        """
        wanted = [(trigger, self._context(trigger, generation)) for trigger in generation.triggers]
        self._close([one for one in self._triggers if (one.trigger, one.ctx) not in wanted])
        unchanged = [(one.trigger, one.ctx) for one in self._triggers]
        for one in self._triggers:
            one.open()
        self._triggers += [
            WatchedTrigger(trigger, ctx, self._loop, self._intake, self._ledger, changed=self._changed)
            for trigger, ctx in wanted
            if (trigger, ctx) not in unchanged
        ]

    def close(self) -> None:
        self._close(list(self._triggers))

    def check(self) -> None:
        """Open again what lost its source, and record lost markers."""
        for one in self._triggers:
            one.check()

    @property
    def states(self) -> dict[str, str]:
        """The state of each trigger: ``watching``, or ``degraded`` and why it sees less, or nothing."""
        return {
            one.trigger.id: "watching" if one.degraded is None else f"degraded: {one.degraded}"
            for one in self._triggers
        }

    def _close(self, some: list[WatchedTrigger]) -> None:
        for one in some:
            one.close()
            self._triggers.remove(one)

    def _context(self, trigger: CompiledTrigger[Trigger], generation: Generation) -> TriggerContext:
        return TriggerContext(
            id=trigger.id,
            host=Host(),
            ignore=(generation.settings.archive, generation.runtime_directory),
            runtime_directory=generation.runtime_directory,
            remember=self._ledger.remember,
            recall=self._ledger.recall,
        )


def _file_of(fd: int) -> tuple[int, ...]:
    info = os.fstat(fd)
    return info.st_dev, info.st_ino, info.st_mode, info.st_rdev
