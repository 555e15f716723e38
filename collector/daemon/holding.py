"""The crashed processes that the kernel holds: each for a case that is collected now, none for longer than allowed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from collector.daemon.hold_guard import BEAT_S, HoldGuard
from collector.daemon.loop import Loop
from collector.host.held_process import HeldProcess
from collector.model.case import Case, Fate
from collector.model.marker import Marker, ProcessRef
from collector.model.ruling import Ruling


@dataclass(slots=True, eq=False)
class Held:
    """A process, and the case that it is held for, once that is ruled on."""

    process: HeldProcess
    case: Case | None = None


class Holding:
    """The processes that are held, by what tells them apart."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._held: dict[ProcessRef, Held] = {}
        self._cancel: Callable[[], None] = lambda: None
        self._guard: HoldGuard | None = None
        self._queue: tuple[int, float] | None = None
        self.held_ever = self.refused_ever = 0

    @property
    def pids(self) -> tuple[int, ...]:
        """The collector's processes that guard the holds."""
        return () if self._guard is None else (self._guard.pid,)

    def guard(self, listening_fd: int, hold_s: float) -> None:
        """
        Have every hold ended in time by a process that does not hang when this one does.

        Args:
            listening_fd: Where crashes wait to be taken over; open for as long as the daemon is to take any.
            hold_s: The longest time for which a process is held.
        """
        first, self._queue = self._queue is None, (listening_fd, hold_s)
        if self._guard is None:
            self._fork_guard()
        else:
            self._guard.queue(listening_fd, hold_s)
        if first:
            self._loop.call_every(BEAT_S, self._beat)

    @property
    def count(self) -> int:
        """How many are held at this moment."""
        return sum(held.process.is_held for held in self._held.values())

    def add(self, process: HeldProcess) -> None:
        """Hold a process until its marker is ruled on; one that is held already is not held twice."""
        if process.process in self._held:
            process.refuse("it is held already")
            return
        self._held[process.process] = Held(process)
        self.held_ever += 1
        if self._guard is not None:
            self._guard.watch(process)
        self._schedule()

    def ruled(self, marker: Marker, ruling: Ruling) -> None:
        """Keep the process of *marker* for the case that is collected now, or refuse its dump before a byte of it."""
        held = None if marker.process is None else self._held.get(marker.process)
        if held is None:
            return
        held.case = case = ruling.case
        if case is None or case.done or case.spent is None:  # what a budget holds is collected later, if at all
            self._drop(held, _why_refused(ruling), refuse=True)

    def refuse(self, marker: Marker, reason: str) -> None:
        """Refuse the dump of the process of *marker*, if it is held."""
        if marker.process is not None and (held := self._held.get(marker.process)) is not None:
            self._drop(held, reason, refuse=True)

    def of(self, case: Case) -> HeldProcess | None:
        """Return the process that is held for *case*."""
        return next((held.process for held in self._held.values() if held.case is case), None)

    def let_go(self, process: HeldProcess, reason: str) -> None:
        """Let go of a process: of another owner, who holds less."""
        held = self._held.get(process.process)
        if held is not None and held.process is process:
            self._drop(held, reason, refuse=held.case is None or held.case.incident is None)

    def tidy(self) -> None:
        """Let go who has been held for long enough, or whose case is over or was displaced."""
        now_s = time.monotonic()
        for held in list(self._held.values()):
            if not held.process.is_held:
                del self._held[held.process.process]
            elif held.case is not None and held.case.done:
                self._drop(held, "its case is over")
            elif now_s >= held.process.deadline_s:
                self._drop(held, "it was held for as long as `hold` allows")
        self._schedule()

    def leave(self) -> None:
        """Let go those whose case has not begun: the daemon will end, and nothing more begins."""
        for held in list(self._held.values()):
            if held.case is None or held.case.incident is None:
                self._drop(held, "the collector was stopped", refuse=True)

    def close(self) -> None:
        for held in list(self._held.values()):
            self._drop(held, "the collector was stopped")
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def _beat(self) -> None:
        """Tell the guard that the daemon gets on; replace it if it was killed, unless somebody would wait for that."""
        if self._guard is not None and self._guard.ended:
            self._guard.close()
            self._guard = None
        if self._guard is None and not self._held:
            self._fork_guard()
        if self._guard is not None:
            self._guard.beat()

    def _fork_guard(self) -> None:
        with contextlib.suppress(OSError):  # out of processes or descriptors: at the next beat
            self._guard = HoldGuard()
        if self._guard is not None and self._queue is not None:
            self._guard.queue(*self._queue)

    def _drop(self, held: Held, reason: str, *, refuse: bool = False) -> None:
        del self._held[held.process.process]
        if held.case is not None and not held.case.done:
            held.case.end_dump(f"its dump was {'refused' if refuse else 'ended'}: {reason}")
        if refuse:
            self.refused_ever += 1
            held.process.refuse(reason)
        else:
            held.process.release(reason)

    def _schedule(self) -> None:
        self._cancel()
        due_s = min((held.process.deadline_s for held in self._held.values()), default=None)
        if due_s is not None:
            self._cancel = self._loop.call_later(max(0.0, due_s - time.monotonic()), self.tidy)


def _why_refused(ruling: Ruling) -> str:
    if ruling.fate is not Fate.JOINED or ruling.case is None:
        return ruling.reason or f"its crash is {ruling.fate}"
    return "its incident is over" if ruling.case.done else "its case waits for a budget"
