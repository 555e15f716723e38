from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from collector.copying.rate.controller import Controller
from collector.copying.rate.flush_batch import ALONE_S, SHARED_S
from collector.copying.rate.limiter import Limiter
from collector.copying.rate.throttle import Stopped, Throttle, limiter_for
from collector.copying.rate.window import MIB
from collector.model.copying import Advice, Feedback
from collector.model.errors import CopyError, UsageError


def test_gate_is_asked_before_the_first_chunk_and_then_seldom() -> None:
    """The gate samples the machine each time; a thousand chunks must not cost a thousand samples."""
    asked = []

    def ask() -> Feedback:
        asked.append(1)
        return Feedback(Advice.GO)

    throttle = Throttle(limiter=Limiter(), ask=ask)
    throttle.wait(1)
    assert len(asked) == 1
    for _ in range(1000):
        throttle.wait(1)
    assert len(asked) < 10


def test_stop_says_why() -> None:
    """The reason goes into the manifest."""
    throttle = Throttle(limiter=Limiter(), ask=lambda: Feedback(Advice.STOP, "the disk is full"))
    with pytest.raises(Stopped, match="the disk is full"):
        throttle.wait(1)


def test_slow_is_counted_once_while_it_lasts() -> None:
    """A change counts, not each answer."""
    throttle = Throttle(limiter=Limiter(), ask=lambda: Feedback(Advice.SLOW))
    for _ in range(4):
        throttle.wait(1)
    assert throttle.slow_downs == 1


def test_slow_downs_of_earlier_copies_do_not_count() -> None:
    """The controller of a disk outlives a copy; the count of slow-downs does not."""
    assert Throttle(limiter=Limiter(controller=Controller(slow_downs=7))).slow_downs == 0


def test_limiter_of_a_disk_outlives_a_copy() -> None:
    """The second of a hundred segments starts at what the first learnt."""
    assert limiter_for("adaptive", -1) is limiter_for("adaptive", -1)
    assert limiter_for("adaptive", -1).controller is limiter_for(1000, -1).controller
    assert limiter_for("adaptive", -1).controller is not limiter_for("adaptive", -2).controller
    assert limiter_for("adaptive", -1).controller is not limiter_for("adaptive", -1, reading=True).controller
    assert limiter_for("max", -1) == Limiter()
    assert limiter_for(1000, -1).bound == 1000


def test_limiter_keeps_its_bound_from_one_copy_to_the_next() -> None:
    """Many artifacts of one chunk each are not faster than one of many chunks."""
    assert limiter_for(1000, -3).reserve(1.0, 5000) == 0.0
    assert limiter_for(1000, -3).reserve(1.0, 5000) == pytest.approx(5.0)


@pytest.mark.parametrize("rate", ["fast", 0, -1])
def test_limiter_refuses_a_rate_that_is_not_positive(rate: str | int) -> None:
    """At a rate of zero a copy would never end."""
    with pytest.raises(UsageError):
        limiter_for(rate, -1)


class Exclusive(Limiter):
    """Notices if two threads call it at the same time."""

    __slots__ = ("busy", "overlaps")

    def __init__(self) -> None:
        super().__init__()
        self.busy = False
        self.overlaps = 0

    def reserve(self, now_s: float, size: int) -> float:
        self._use()
        return 0.0

    def record(self, now_s: float, size: int, latency_s: float) -> None:
        self._use()

    def _use(self) -> None:
        self.overlaps += self.busy
        self.busy = True
        time.sleep(0.001)
        self.busy = False


def test_limiter_is_used_by_one_thread_at_a_time() -> None:
    """Otherwise it could divide by a rate that another writer has just replaced."""
    limiter = Exclusive()
    throttle = Throttle(limiter=limiter)
    other = threading.Thread(target=lambda: [throttle.record(1, 0.0) for _ in range(30)])
    other.start()
    for _ in range(30):
        throttle.wait(1)
    other.join()
    assert limiter.overlaps == 0


def test_gate_is_asked_while_the_limiter_waits() -> None:
    """At a low rate a chunk waits for minutes: STOP or Ctrl-C must not."""
    answers = iter([Feedback(Advice.GO), Feedback(Advice.GO), Feedback(Advice.GO)])
    limiter = Limiter(1000)
    limiter.reserve(time.monotonic(), 600_000)
    throttle = Throttle(limiter=limiter, ask=lambda: next(answers, Feedback(Advice.STOP, "enough")))
    with pytest.raises(Stopped, match="enough"):
        throttle.wait(1)


def test_disk_is_told_to_flush_once_a_batch_lies_in_its_cache() -> None:
    """Whoever syncs beside the copy finds little to wait for; at full speed nobody asked for that."""
    flushed: list[int] = []
    throttle = Throttle(limiter=Limiter(controller=Controller()), flush=lambda: flushed.append(1))
    for _ in range(3):
        throttle.record(MIB // 2, 0.001)
    assert len(flushed) == 1
    throttle.record(MIB // 2, 0.001)
    assert len(flushed) == 2
    for other in (
        Throttle(limiter=Limiter(), flush=lambda: flushed.append(1)),
        Throttle(limiter=Limiter(controller=Controller())),
    ):
        for _ in range(1000):
            other.record(MIB, 0.001)
    assert len(flushed) == 2


def test_disk_is_told_to_flush_when_the_rate_is_bounded() -> None:
    """A bound says how fast to write, not how much may lie in the cache."""
    flushed: list[int] = []
    throttle = Throttle(limiter=Limiter(10**9, Controller()), flush=lambda: flushed.append(1))
    for _ in range(4):
        throttle.record(MIB, 0.001)
    assert flushed


def test_writers_flush_one_at_a_time_and_never_leave_more_than_two_batches() -> None:
    """While one writer drains a batch, the others write the next one and then wait."""
    controller = Controller()
    lock, inside, most, cached, worst = threading.Lock(), 0, 0, 0, 0

    def flush() -> None:
        nonlocal inside, most, cached
        with lock:
            inside += 1
            most = max(most, inside)
            before = cached
        time.sleep(0.002)
        with lock:
            inside -= 1
            cached -= before

    throttle = Throttle(limiter=Limiter(controller=controller), flush=flush)
    largest = 0

    def work() -> None:
        nonlocal cached, worst, largest
        for _ in range(50):
            with lock:
                cached += MIB
                largest = max(largest, controller.flush_batch.size)
                worst = max(worst, cached)
            throttle.record(MIB, 0.0001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert worst <= 2 * largest + 4 * MIB


def test_copy_fails_without_blocking_when_a_flush_fails() -> None:
    """What was in the cache is lost, and nobody knows which part of the file that was."""

    def fail() -> None:
        raise CopyError("cannot flush")

    throttle = Throttle(limiter=Limiter(controller=Controller()), flush=fail)
    for _ in range(2):
        with pytest.raises(CopyError, match="cannot flush"):
            throttle.record(MIB, 0.001)


class FlushCounter:
    """A disk whose flushes take no time; it may count them."""

    def __init__(self, *, counts: bool = True) -> None:
        self.flushed = 0
        self._counts = counts

    def flush(self) -> None:
        self.flushed += self._counts

    def flushes(self) -> int:
        return self.flushed


def test_disk_is_shared_only_when_others_flush_it() -> None:
    """What is counted between two flushes of the copy is somebody else's."""
    disk, controller = FlushCounter(), Controller()
    throttle = Throttle(limiter=Limiter(controller=controller), flush=disk.flush, flushes=disk.flushes)
    for _ in range(20):
        throttle.record(MIB, 0.001)
    assert disk.flushed > 1
    assert controller.flush_batch.limit_s == ALONE_S
    disk.flush()
    for _ in range(200):
        throttle.record(MIB, 0.001)
    assert controller.flush_batch.limit_s == SHARED_S


@pytest.mark.parametrize("flushes", [FlushCounter(counts=False).flushes, lambda: None])
def test_disk_counts_as_shared_when_it_does_not_count_flushes(flushes: Callable[[], int | None]) -> None:
    """If nothing is known, others come first."""
    controller = Controller()
    throttle = Throttle(limiter=Limiter(controller=controller), flush=FlushCounter().flush, flushes=flushes)
    throttle.record(MIB, 0.001)
    assert controller.flush_batch.limit_s == SHARED_S


def test_write_that_waits_behind_a_flush_is_not_late() -> None:
    """A disk does one thing after the other: the controller must not take its own flush for a limit."""
    told: list[float] = []

    class Listening(Controller):
        def record(self, now_s: float, size: int, latency_s: float) -> None:
            told.append(latency_s)

    throttle = Throttle(limiter=Limiter(controller=Listening()), flush=lambda: time.sleep(0.1))
    throttle.record(MIB, 0.0)
    throttle.record(1, 0.1)
    throttle.record(1, 100.0)
    assert told[1] <= 0.05
    assert told[2] == pytest.approx(99.9, abs=0.09)
