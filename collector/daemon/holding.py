"""The crashed processes that the kernel holds: each for a case that is collected now, none for longer than allowed."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from collector.daemon.loop import Loop
from collector.host.files import OpenFd
from collector.host.held_process import DumpSource, HeldProcess
from collector.model.admission import Ruling
from collector.model.case import Case, Fate
from collector.model.marker import Marker, ProcessRef

GRACE_S = 1.0
"""How long after its deadline a process may still be there whose pipe somebody else has open, too."""


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
        self._schedule()

    def ruled(self, marker: Marker, ruling: Ruling) -> None:
        """Keep the process of *marker* for the case that is collected now, or refuse its dump before a byte of it."""
        held = None if marker.process is None else self._held.get(marker.process)
        if held is None:
            return
        held.case = case = ruling.case
        if case is None or case.done or case.spent is None:  # what a budget holds is collected later, if at all
            self._drop(held, _why_refused(ruling), refuse=True)
        elif held.process.source is DumpSource.PIPE:
            self._end_in_any_case(held.process)

    def of(self, case: Case) -> HeldProcess | None:
        """Return the process that is held for *case*."""
        return next((held.process for held in self._held.values() if held.case is case), None)

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

    def _end_in_any_case(self, process: HeldProcess) -> None:
        """
        Kill the process if it is there beyond its deadline: a worker that hangs in the kernel has a copy of its pipe.

        A connection is shut down instead, which leaves the process its own signal.
        """
        pidfd = os.dup(process.pidfd)

        def end() -> None:
            with OpenFd(pidfd), contextlib.suppress(OSError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)

        self._loop.call_later(max(0.0, process.deadline_s - time.monotonic()) + GRACE_S, end)

    def _drop(self, held: Held, reason: str, *, refuse: bool = False) -> None:
        del self._held[held.process.process]
        if held.case is not None and not held.case.done:
            held.case.end_dump(f"its dump was {'refused' if refuse else 'ended'}: {reason}")
        if refuse:
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
