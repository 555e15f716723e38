"""Whether a stream will have come in time, at the pace at which it has come so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from collector.copying.buffers import Buffer
from collector.model.copying import Advice, Feedback
from collector.model.units import mib

LEARNING_S = 2.0
"""Before that the pace says little: the limiter has not met the disk yet, or pauses because it just has."""

SPARE_S = 1.0
"""Kept back of the time that is left: to make the file durable."""


@dataclass(slots=True, kw_only=True)
class Schedule:
    """
    Asks the gate, and says STOP itself once the stream cannot come in time.

    Args:
        ask: The gate.
        size_bytes: How much is to come in all; ``None`` if that is not known.
        deadline_s: When it must have come, monotonic; ``None`` for any time.
    """

    ask: Callable[[], Feedback]
    size_bytes: int | None
    deadline_s: float | None
    rate: float | None = field(init=False, default=None)
    """The bytes per second that were too few, once it has said so."""
    _began_s: float = field(init=False, default_factory=time.monotonic)
    _came: int = field(init=False, default=0)

    def __call__(self) -> Feedback:
        feedback = self.ask()
        now_s = time.monotonic()
        if feedback.advice is Advice.STOP or self.size_bytes is None or self.deadline_s is None:
            return feedback
        if now_s - self._began_s < LEARNING_S:
            return feedback
        rate, left_s = self._came / (now_s - self._began_s), self.deadline_s - now_s - SPARE_S
        if self.size_bytes - self._came <= rate * left_s:
            return feedback
        self.rate = rate
        return Feedback(
            Advice.STOP, f"at {mib(int(rate))} a second, {mib(self.size_bytes)} would not have come in time"
        )

    def counted(self, blocks: Iterable[tuple[Buffer, int]]) -> Iterator[tuple[Buffer, int]]:
        """Pass *blocks* on, and count what they hold."""
        for buffer, used in blocks:
            self._came += used
            yield buffer, used
