"""Signals that end a command."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from collector.model.errors import SignalError

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def on_signal(act: Callable[[int], None], *, afterwards: signal.Handlers | None = None) -> Iterator[None]:
    """
    Call *act* with the number of each ending signal that arrives inside the block.

    A signal that is ignored stays ignored: SIGHUP under nohup, SIGINT in a script's background job.
    *afterwards* is what the signals do after the block; by default what they did before it.
    """

    def handler(number: int, _frame: FrameType | None) -> None:
        act(number)

    handled = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old if afterwards is None else afterwards)


@contextmanager
def interruptible(left: str) -> Iterator[Callable[[], None]]:
    """
    Yield a function that raises `SignalError` once an ending signal has arrived.

    The handler only records the signal: an exception raised there could strike between the creation of a file and
    the code that removes it. After the block the outcome is settled, and further signals are ignored.
    The message says what is *left* of the work when it is interrupted.
    """
    noted: list[int] = []

    def check() -> None:
        if noted:
            name = signal.Signals(noted[0]).name
            raise SignalError(f"ended by {name}; {left}", number=noted[0])

    with on_signal(noted.append, afterwards=signal.SIG_IGN):
        yield check
