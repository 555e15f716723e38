"""
Coroutines: work that waits, written from top to bottom.

A `Task` is a generator that yields a `Wait` wherever it would block, and is resumed with True if the descriptor became
readable, False if the time came first. The daemon's loop drives tasks beside everything else that it listens to;
`drive` runs a single one.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Wait(NamedTuple):
    """Until *fd* is readable (-1: wait for the time only) or the monotonic clock shows *until_s*."""

    fd: int
    until_s: float


Task = Generator[Wait, bool, T]


def sleep(seconds: float) -> Task[None]:
    yield Wait(-1, time.monotonic() + seconds)


def beside(task: Task[T], other: Callable[[], Task[None]], *, every_s: float) -> Task[T]:
    """Run *task*; whenever it waits, and then every *every_s*, run *other* to its end first."""
    with closing(task):
        try:
            wait = next(task)
            while True:
                yield from other()
                ready = yield Wait(wait.fd, min(wait.until_s, time.monotonic() + every_s))
                if ready or time.monotonic() >= wait.until_s:
                    wait = task.send(ready)
        except StopIteration as end:
            value: T = end.value
            return value


def drive(task: Task[T]) -> T:
    """Run *task* to its end in this thread and return its result."""
    try:
        wait = next(task)
        while True:
            wait = task.send(until(wait))
    except StopIteration as end:
        value: T = end.value
        return value


def until(wait: Wait) -> bool:
    """Block until *wait* is over; return whether its descriptor is readable."""
    poller = select.poll()
    if wait.fd >= 0:
        poller.register(wait.fd, select.POLLIN)
    return bool(poller.poll(max(0, round((wait.until_s - time.monotonic()) * 1000))))
