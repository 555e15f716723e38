"""The signals that end a command, and how they do."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from collector.model.errors import SignalError

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def heeded(act: Callable[[int], None], *, afterwards: signal.Handlers | None = None) -> Iterator[None]:
    """
    Call *act* with the number of each ending signal that comes; *afterwards* is what they do then, else as before.

    What is ignored stays so: SIGHUP under nohup, SIGINT in a script's background job.
    """

    def handler(number: int, _frame: FrameType | None) -> None:
        act(number)

    heeded_ones = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded_ones}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old if afterwards is None else afterwards)


def give_up(number: int) -> None:
    """Raise what ends a command here and now: it cleans up on its way out."""
    raise SignalError(f"ended by {signal.Signals(number).name}", number=number)
