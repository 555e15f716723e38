from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from collector.copying import buffers
from collector.copying.engine import chunk_size
from collector.copying.rate.flush_batch import ALONE_S, SHARED_S
from collector.copying.rate.limiter import Adaptive, Bounded, Max
from collector.copying.rate.throttle import Steering, Stopped, nobody_can_tell, pace_for
from collector.copying.rate.window import MIB
from collector.model.copying import Advice, CopySettings, Feedback
from collector.model.errors import CopyError, UsageError


def test_gate_is_asked_before_the_first_chunk_and_then_seldom() -> None:
    """A question may cost a sample of the machine; a thousand chunks must not cost a thousand samples."""
    asked = []

    def ask() -> Feedback:
        asked.append(1)
        return Feedback(Advice.GO)

    steering = Steering(pace=Max(), ask=ask)
    steering.turn(1)
    assert len(asked) == 1
    for _ in range(1000):
        steering.turn(1)
    assert len(asked) < 10


def test_stop_says_why() -> None:
    """The reason goes into the manifest."""
    steering = Steering(pace=Max(), ask=lambda: Feedback(Advice.STOP, "the disk is full"))
    with pytest.raises(Stopped, match="the disk is full"):
        steering.turn(1)


def test_slow_is_counted_once_while_it_lasts() -> None:
    """A slow-down is a change, not a question."""
    steering = Steering(pace=Max(), ask=lambda: Feedback(Advice.SLOW))
    for _ in range(4):
        steering.turn(1)
    assert steering.slow_downs == 1


def test_slow_downs_of_earlier_copies_are_not_this_ones() -> None:
    """The pace of a disk outlives a copy; its count does not."""
    pace = Adaptive(slow_downs=7)
    assert Steering(pace=pace).slow_downs == 0


def test_pace_of_a_disk_outlives_a_copy() -> None:
    """The second of a hundred segments starts at what the first learnt."""
    assert pace_for("adaptive", -1) is pace_for("adaptive", -1)
    assert pace_for("adaptive", -1) is not pace_for("adaptive", -2)
    assert pace_for("adaptive", -1) is not pace_for("adaptive", -1, reading=True)
    assert isinstance(pace_for("max", -1), Max)
    assert isinstance(pace_for(1000, -1), Bounded)


@pytest.mark.parametrize("rate", ["fast", 0, -1])
def test_pace_refuses_a_rate_that_is_none(rate: str | int) -> None:
    """A rate of nothing would never end."""
    with pytest.raises(UsageError):
        pace_for(rate, -1)


def test_buffers_start_at_huge_pages_and_are_lent_again() -> None:
    """One allocation for the life of the process."""
    with buffers.lease(4, 1 << 20) as first:
        addresses = [buffer.address for buffer in first]
        assert addresses[0] % buffers.HUGE == 0
        with buffers.lease(1, 4096) as other:
            assert other[0].address not in range(addresses[0], addresses[0] + buffers.POOL_BYTES)
    with buffers.lease(2, 1 << 20) as second:
        assert second[0].address == addresses[0]


@pytest.mark.parametrize(
    ("asked", "writers", "align", "chunk"),
    [
        (1 << 20, 2, 4096, 1 << 20),
        (64 << 20, 4, 4096, 1 << 20),
        (64 << 20, 1, 4096, 4 << 20),
        (100_000, 2, 4096, 98_304),
        (100, 2, 4096, 4096),
        (100_000, 2, 65_536, 65_536),
    ],
)
def test_chunk_fits_the_buffers_and_the_disk(asked: int, writers: int, align: int, chunk: int) -> None:
    """Whatever is configured, no memory is allocated for it."""
    settings = CopySettings(chunk_bytes=asked, writers=writers)
    assert chunk_size(settings, align) == chunk


def test_pace_is_never_asked_while_another_writer_tells_it_something() -> None:
    """It would find a rate that is taken away before it divides by it."""
    held: list[bool] = []

    class Watching(Max):
        def turn(self, now_s: float, size: int) -> float:
            held.append(steering._lock.locked())
            return super().turn(now_s, size)

    steering = Steering(pace=Watching())
    steering.turn(1)
    assert held == [True]


def test_gate_is_asked_while_the_pace_waits() -> None:
    """At a low rate a chunk waits for minutes: a STOP, or Ctrl-C, must not wait with it."""
    answers = iter([Feedback(Advice.GO), Feedback(Advice.GO), Feedback(Advice.GO)])
    pace = Bounded(1000, Adaptive())
    pace.turn(time.monotonic(), 600_000)
    steering = Steering(pace=pace, ask=lambda: next(answers, Feedback(Advice.STOP, "enough")))
    with pytest.raises(Stopped, match="enough"):
        steering.turn(1)


def test_disk_is_told_to_flush_once_a_batch_lies_in_its_cache() -> None:
    """Whoever syncs beside the copy finds little to wait for; at full speed nobody asked for that."""
    flushed: list[int] = []
    steering = Steering(pace=Adaptive(), flush=lambda: flushed.append(1))
    for _ in range(3):
        steering.done(MIB // 2, 0.001)
    assert len(flushed) == 1
    steering.done(MIB // 2, 0.001)
    assert len(flushed) == 2
    for other in (Steering(pace=Max(), flush=lambda: flushed.append(1)), Steering(pace=Adaptive())):
        for _ in range(1000):
            other.done(MIB, 0.001)
    assert len(flushed) == 2


def test_bounded_copy_flushes_as_an_adaptive_one_does() -> None:
    """A rate in bytes says how fast to write, not how much may lie in the cache."""
    flushed: list[int] = []
    steering = Steering(pace=Bounded(10**9, Adaptive()), flush=lambda: flushed.append(1))
    for _ in range(4):
        steering.done(MIB, 0.001)
    assert flushed


def test_writers_flush_one_at_a_time_and_never_leave_more_than_two_batches() -> None:
    """One drains a batch; the other writes the next one meanwhile, and then waits."""
    pace = Adaptive()
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

    steering = Steering(pace=pace, flush=flush)
    largest = 0

    def work() -> None:
        nonlocal cached, worst, largest
        for _ in range(50):
            with lock:
                cached += MIB
                largest = max(largest, pace.cache.batch)
                worst = max(worst, cached)
            steering.done(MIB, 0.0001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert worst <= 2 * largest + 4 * MIB


def test_flush_that_fails_fails_the_copy_and_holds_nobody() -> None:
    """What was in the cache is lost, and nobody knows what it was."""

    def fail() -> None:
        raise CopyError("cannot flush")

    steering = Steering(pace=Adaptive(), flush=fail)
    for _ in range(2):
        with pytest.raises(CopyError, match="cannot flush"):
            steering.done(MIB, 0.001)


class Disk:
    """Counts its flushes, or not, and takes no time for them."""

    def __init__(self, *, counts: bool = True) -> None:
        self.flushed = 0
        self._counts = counts

    def flush(self) -> None:
        self.flushed += self._counts

    def flushes(self) -> int:
        return self.flushed


def test_disk_that_others_flush_is_shared_and_one_that_only_the_copy_flushes_is_not() -> None:
    """What the counter shows between two of the copy's own flushes is somebody else's."""
    disk, pace = Disk(), Adaptive()
    steering = Steering(pace=pace, flush=disk.flush, flushes=disk.flushes)
    for _ in range(20):
        steering.done(MIB, 0.001)
    assert disk.flushed > 1
    assert pace.cache.limit_s == ALONE_S
    disk.flush()
    for _ in range(200):
        steering.done(MIB, 0.001)
    assert pace.cache.limit_s == SHARED_S


@pytest.mark.parametrize("flushes", [Disk(counts=False).flushes, nobody_can_tell])
def test_disk_whose_flushes_nobody_counts_may_be_shared(flushes: Callable[[], int | None]) -> None:
    """Where nothing is known, others come first."""
    pace = Adaptive()
    steering = Steering(pace=pace, flush=Disk().flush, flushes=flushes)
    steering.done(MIB, 0.001)
    assert pace.cache.limit_s == SHARED_S


def test_write_that_waits_behind_a_flush_is_not_late() -> None:
    """A disk does one after the other: the pace must not take its own flush for a limit."""
    told: list[float] = []

    class Listening(Adaptive):
        def done(self, now_s: float, size: int, latency_s: float) -> None:
            told.append(latency_s)

    steering = Steering(pace=Listening(), flush=lambda: time.sleep(0.1))
    steering.done(MIB, 0.0)
    steering.done(1, 0.1)
    steering.done(1, 100.0)
    assert told[1] <= 0.05
    assert told[2] == pytest.approx(99.9, abs=0.09)
