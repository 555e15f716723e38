"""How far a copy is: one line of a terminal."""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable

from collector.cli.text import printable, size
from collector.runner.events import StepProgressed

WINDOW_S = 10.0
"""The rate is that of the last seconds: a copy yields to others, and its average since the start says nothing."""

SHORTEST_S = 0.5
"""No rate is told from less."""

MINUTE, HOUR = 60.0, 3600.0


class ProgressLine:
    """Bytes, of how many, rate, and time left of the step that is copied now; *clock* is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._step = ""
        self._known: deque[tuple[float, int]] = deque()

    def text(self, event: StepProgressed) -> str:
        """Return the line for the step's progress."""
        rate = self._rate(event)
        total = event.total_bytes if event.total_bytes is not None and event.total_bytes >= event.size_bytes else None
        figures = [size(event.size_bytes) + (f" of {size(total)}" if total is not None else "")]
        if event.slowed:
            figures.append(event.slowed)
        elif rate is not None:
            figures.append(f"{size(rate)}/s")
            if total is not None and rate > 0:
                figures.append(f"{_duration((total - event.size_bytes) / rate)} left")
        return f"{event.step}: {', '.join(figures)}"

    def _rate(self, event: StepProgressed) -> float | None:
        """Return bytes per second; ``None`` if too little is known."""
        now = self._clock()
        if event.step != self._step or (self._known and event.size_bytes < self._known[-1][1]):
            self._step = event.step
            self._known.clear()
        self._known.append((now, event.size_bytes))
        while now - self._known[0][0] > WINDOW_S and len(self._known) > 2:
            self._known.popleft()
        since_s, since_bytes = self._known[0]
        return (event.size_bytes - since_bytes) / (now - since_s) if now - since_s >= SHORTEST_S else None


def fitting(text: str) -> str:
    """Return *text* cut to the terminal's width: a line that wraps cannot be replaced."""
    return printable(text, limit=max(20, shutil.get_terminal_size().columns - 1))


def _duration(seconds: float) -> str:
    if seconds < 2 * MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / MINUTE:.0f} min" if seconds < 2 * HOUR else f"{seconds / HOUR:.0f} h"
