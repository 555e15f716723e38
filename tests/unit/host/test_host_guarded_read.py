from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from collector.host import guarded_read
from collector.host.guarded_read import ExhaustedError, Guard, WedgedError, wedged_threads

SHORT_S = 0.05


def blocked(pipe: int) -> Callable[[], bytes]:
    return lambda: os.read(pipe, 1)


@pytest.fixture
def pipe() -> tuple[int, int]:
    """A pipe whose reader hangs until somebody writes: the read end, the write end."""
    return os.pipe()


def release(write_fd: int, count: int = 1) -> None:
    """Release the stuck readers, and wait until their threads have ended."""
    os.write(write_fd, b"x" * count)
    deadline_s = time.monotonic() + 5
    while wedged_threads() and time.monotonic() < deadline_s:
        time.sleep(0.005)


def test_guard_returns_what_the_call_returns() -> None:
    """The plain case, and its error."""
    guard = Guard(5.0)
    assert guard.call(lambda: 42) == 42
    with pytest.raises(FileNotFoundError):
        guard.call(lambda: os.stat("/does/not/exist"))
    guard.close()


def test_guard_uses_one_thread_for_many_calls() -> None:
    """A hand-over is cheap; a thread per read would not be."""
    guard = Guard(5.0)
    assert len({guard.call(threading.get_ident) for _ in range(10)}) == 1
    guard.close()


def test_guard_gives_up_and_continues_with_a_new_thread(pipe: tuple[int, int]) -> None:
    """A read that never returns costs its own deadline, not the next read."""
    read_fd, write_fd = pipe
    guard = Guard(SHORT_S)
    with pytest.raises(WedgedError, match="gave up"):
        guard.call(blocked(read_fd))
    assert (guard.call(lambda: 1), guard.gave_up, wedged_threads()) == (1, 1, 1)
    release(write_fd)
    assert wedged_threads() == 0
    guard.close()


def test_guard_refuses_when_too_many_threads_are_stuck(pipe: tuple[int, int]) -> None:
    """The number of threads left behind is bounded, over all guards of the process."""
    read_fd, write_fd = pipe
    for _ in range(guarded_read.MAX_WEDGED):
        with pytest.raises(WedgedError, match="gave up"):
            Guard(SHORT_S).call(blocked(read_fd))
    with pytest.raises(ExhaustedError, match="not tried: 8 reads are stuck"):
        Guard(SHORT_S).call(lambda: 1)
    release(write_fd, guarded_read.MAX_WEDGED)
    assert wedged_threads() == 0


def test_guard_call_many_shows_which_call_is_stuck(pipe: tuple[int, int]) -> None:
    """The results before it are there, and the caller can continue after it."""
    read_fd, write_fd = pipe
    guard = Guard(SHORT_S)
    results: list[int] = []

    def read(number: int) -> int:
        if number == 3:
            os.read(read_fd, 1)
        return number * 10

    with pytest.raises(WedgedError):
        guard.call_many(read, [1, 2, 3, 4], results)
    assert results == [10, 20]
    release(write_fd)
    assert results == [10, 20]  # also when the one left behind goes on
    guard.call_many(read, [4, 5], results)
    assert results == [10, 20, 40, 50]
    guard.close()


def test_guard_call_many_counts_the_deadline_per_call() -> None:
    """Many reads together may take longer than the deadline of one."""
    guard = Guard(SHORT_S)
    results: list[None] = []
    guard.call_many(lambda wait_s: threading.Event().wait(wait_s) and None, [SHORT_S / 2] * 6, results)
    assert len(results) == 6
    guard.close()


NO_THREAD = """
import resource, sys
from collector.host.guarded_read import ExhaustedError, Guard
resource.setrlimit(resource.RLIMIT_AS, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, -1))
try:
    Guard(1.0).call(lambda: 1)
except ExhaustedError as exc:
    print(exc)
"""


def test_guard_refuses_when_no_thread_can_be_started() -> None:
    """On a machine without memory the read is not tried, and the step goes on without it."""
    said = subprocess.run([sys.executable, "-c", NO_THREAD], capture_output=True, text=True, check=True).stdout
    assert said == "not tried: can't start new thread\n"
