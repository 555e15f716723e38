"""The crashed processes that the kernel holds: each for a case that is collected now, none for longer than allowed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from collector.daemon.loop import Loop
from collector.host.held_process import HeldProcess
from collector.model.admission import Ruling
from collector.model.case import Case
from collector.model.marker import Marker, ProcessRef


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
        case = ruling.case
        if case is None or case.done or case.spent is None:  # what a budget holds is collected later, if at all
            self._drop(held, ruling.reason or f"its crash is {ruling.fate}", refuse=True)
        else:
            held.case = case

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

    def close(self) -> None:
        for held in list(self._held.values()):
            self._drop(held, "the collector was stopped")

    def _drop(self, held: Held, reason: str, *, refuse: bool = False) -> None:
        del self._held[held.process.process]
        if refuse:
            held.process.refuse(reason)
        else:
            held.process.release(reason)

    def _schedule(self) -> None:
        self._cancel()
        due_s = min((held.process.deadline_s for held in self._held.values()), default=None)
        if due_s is not None:
            self._cancel = self._loop.call_later(max(0.0, due_s - time.monotonic()), self.tidy)
