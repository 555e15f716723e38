"""Long work in the loop goes on in slices, so that everything else is never kept waiting by it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from collector.daemon.loop import Loop

TURN_S = 0.02
"""Time for all such work together, per turn of the loop; `collector status` is to be answered within 0.1 s."""

TURN_MARKERS = 64
"""Markers per turn, likewise: 1 MiB at most."""


@dataclass(slots=True)
class Slice:
    """What a job may use now: time until *end_s* on the monotonic clock, and *markers*."""

    end_s: float
    markers: int = TURN_MARKERS

    @property
    def is_used_up(self) -> bool:
        return self.markers <= 0 or time.monotonic() >= self.end_s


Job = Callable[[Slice], bool]
"""Goes on until the slice is used up; returns whether there is more to do."""


class Turns:
    """The jobs that have more to do. Each gets an equal part of a turn; what one leaves, the next ones can use."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._jobs: dict[Job, None] = {}
        self._is_due = False

    def add(self, job: Job) -> None:
        """Let *job* go on in the next turn, unless it is to already."""
        self._jobs[job] = None
        if not self._is_due:
            self._is_due = True
            self._loop.call_later(0.0, self._turn)

    def remove(self, job: Job) -> None:
        self._jobs.pop(job, None)

    def _turn(self) -> None:
        self._is_due = False
        end_s, markers = time.monotonic() + TURN_S, TURN_MARKERS
        jobs = list(self._jobs)
        for waiting, job in zip(range(len(jobs), 0, -1), jobs, strict=True):
            if job not in self._jobs:
                continue  # an earlier one has closed it
            self.remove(job)
            now_s = time.monotonic()
            part = Slice(now_s + max(0.0, end_s - now_s) / waiting, -(-markers // waiting))
            markers -= part.markers
            if job(part):
                self.add(job)
            markers += max(0, part.markers)
