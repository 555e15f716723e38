"""The supervisor's loop: descriptors, timers and tasks in one thread."""

from __future__ import annotations

import os
import time

from collector.daemon.loop import Loop
from collector.runner.coroutine import Task, Wait, drive, sleep


def run_for(loop: Loop, seconds: float) -> None:
    loop.call_later(seconds, loop.stop)
    loop.run()


def test_loop_fires_timers_in_their_order() -> None:
    """Whatever the order in which they were set."""
    loop, fired = Loop(), []
    now = time.monotonic()
    loop.call_at(now + 0.02, lambda: fired.append("second"))
    loop.call_at(now + 0.01, lambda: fired.append("first"))
    run_for(loop, 0.03)
    assert fired == ["first", "second"]


def test_loop_forgets_a_timer_that_was_cancelled() -> None:
    """Also one that is cancelled twice, or after it fired."""
    loop, fired = Loop(), []
    cancel = loop.call_later(0.0, lambda: fired.append("no"))
    cancel()
    cancel()
    done = loop.call_later(0.0, lambda: fired.append("yes"))
    run_for(loop, 0.01)
    done()
    assert fired == ["yes"]


def test_loop_skips_a_callback_that_was_unwatched_in_the_same_turn() -> None:
    """One callback may close what another is waiting for."""
    loop, called = Loop(), []
    pipes = [os.pipe(), os.pipe()]

    def first(mine: int, other: int) -> None:
        called.append(mine)
        loop.unwatch(mine)
        loop.unwatch(other)

    for (reader, writer), (other, _) in zip(pipes, reversed(pipes), strict=True):
        os.write(writer, b"x")
        loop.watch(reader, lambda mine=reader, other=other: first(mine, other))
    run_for(loop, 0.01)
    assert len(called) == 1


def waits(fd: int, seconds: float) -> Task[bool]:
    return (yield Wait(fd, time.monotonic() + seconds))


def test_task_learns_whether_it_was_readable_or_late() -> None:
    """Alone and beside other work, the same task gives the same answer."""
    reader, writer = os.pipe()
    assert drive(waits(reader, 0.01)) is False
    loop, answers = Loop(), []
    loop.spawn(waits(reader, 0.01), answers.append)
    run_for(loop, 0.03)
    os.write(writer, b"x")
    loop.spawn(waits(reader, 10.0), answers.append)
    run_for(loop, 0.01)
    assert answers == [False, True]
    assert drive(waits(reader, 10.0)) is True


def test_tasks_run_beside_each_other() -> None:
    """A task that waits holds nobody up."""
    loop, order = Loop(), []

    def task(name: str, seconds: float) -> Task[str]:
        yield from sleep(seconds)
        return name

    loop.spawn(task("slow", 0.03), order.append)
    loop.spawn(task("fast", 0.01), order.append)
    run_for(loop, 0.05)
    assert order == ["fast", "slow"]


def test_task_that_never_waits_ends_immediately() -> None:
    """Not every task has something to wait for."""

    def task() -> Task[int]:
        return 7
        yield

    results: list[int] = []
    Loop().spawn(task(), results.append)
    assert results == [7]
    assert drive(task()) == 7
