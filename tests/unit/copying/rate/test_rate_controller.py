"""The adaptive pace against simulated disks."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from simulated_disks import BlockThrottle, Disk, Simulation, drive, rate_of, saving, steady, throttled

from collector.copying.rate.controller import BACK_OFF, LEAST_RATE, MIB, PUSH, Adaptive


@pytest.mark.parametrize(("rate", "writers"), [(2500, 2), (1000, 4)])
def test_adaptive_does_not_hold_back_a_fast_disk(rate: int, writers: int) -> None:
    """NVMe: nobody notices waiting for a MiB, so none of its speed is given away, however many are in flight."""
    written = drive(Adaptive(), steady(rate * MIB), seconds=5, writers=writers)
    assert rate_of(written) >= 0.98 * rate * MIB


@pytest.mark.parametrize("writers", [1, 2, 4])
@pytest.mark.parametrize("disk", [steady, throttled], ids=["steady", "throttled"])
@pytest.mark.parametrize("rate", [20 * MIB, 100 * MIB, 300 * MIB])
def test_adaptive_leaves_room_on_a_slower_disk(disk: Callable[[float], Disk], rate: float, writers: int) -> None:
    """A slower disk gets most of its speed out of a copy, and others get the rest."""
    written = drive(Adaptive(), disk(rate), seconds=20, writers=writers)
    assert 0.62 * rate <= rate_of(written) <= 0.97 * rate
    settled = [end - start for start, end in written if 2 <= start < 8]
    assert sum(settled) / len(settled) <= 1.5 * MIB / rate


def test_adaptive_takes_one_slow_window_for_a_hiccup() -> None:
    """A fast disk that does nothing for a moment is not a slow disk."""
    fast = steady(2500 * MIB)

    def hiccup(now: float, size: int) -> float:
        return fast(now + (0.15 if 1.0 <= now < 1.0005 else 0.0), size)

    pace = Adaptive()
    drive(pace, hiccup, seconds=3)
    assert pace.slow_downs == 0


def test_adaptive_backs_off_when_its_own_writes_slow_down() -> None:
    """Somebody else takes three quarters of the disk: the copy shrinks with what is left, not to zero."""
    whole, rest = steady(100 * MIB), steady(25 * MIB)
    written = drive(Adaptive(), lambda now, size: (whole if now < 5 else rest)(now, size), seconds=20)
    assert 0.4 * 25 * MIB <= rate_of(written, since=8) <= 25 * MIB


def test_adaptive_is_not_worn_down_by_bursts_of_others() -> None:
    """Every 3 s somebody keeps the disk for 0.5 s: the copy makes room, and is not slower each time."""
    disk = throttled(100 * MIB)

    def burst(now: float, size: int) -> float:
        return disk(now + max(0.0, 0.5 - now % 3.0), size)

    written = drive(Adaptive(), burst, seconds=120)
    assert rate_of(written, since=60) >= 0.70 * 100 * MIB


def test_adaptive_finds_more_when_the_disk_becomes_faster() -> None:
    """A rate is no life sentence: once the other writer is gone, the copy has the disk again."""
    slow, fast = steady(50 * MIB), steady(2000 * MIB)
    written = drive(Adaptive(), lambda now, size: (slow if now < 5 else fast)(now, size), seconds=120)
    assert rate_of(written, since=110) > 1500 * MIB


def test_adaptive_lets_a_disk_go_that_was_slow_for_a_moment() -> None:
    """Another machine on the same host takes the disk for 2 s in 20: the copy has it back 1.5 s later."""
    fast, slow = steady(1000 * MIB), steady(150 * MIB)
    written = drive(Adaptive(), lambda now, size: (slow if 2 <= now % 20 < 4 else fast)(now, size), seconds=60)
    for began in (5.5, 25.5, 45.5):
        assert rate_of([span for span in written if began <= span[0] < began + 14]) >= 0.95 * 1000 * MIB


def test_adaptive_trusts_a_throttle_less_each_time() -> None:
    """A throttle looks fast to whoever stays below it: it is tried again, but ever more seldom."""
    pace = Adaptive()
    drive(pace, throttled(100 * MIB), seconds=300)
    assert pace.slow_downs <= 12


@pytest.mark.parametrize("rate", [102, 105])
def test_adaptive_does_not_sit_at_the_limit_of_a_throttle(rate: int) -> None:
    """Just above it writes are late and the disk is not busy: nobody else's fault, and no new normal either."""
    pace = Adaptive(rate=rate * MIB, capacity=150.0 * MIB, _trust_s=80.0, _yielded_s=0.0)
    written = drive(pace, throttled(100 * MIB), seconds=60)
    late = [(start, end) for start, end in written if end - start > 0.015]
    assert sum(end - start for start, end in late) / 2 <= 0.01 * 60  # two writers


def test_adaptive_does_not_take_what_a_throttle_has_saved_up_for_its_speed() -> None:
    """Let go and met again: the first moment has the savings of the time before, and says little."""
    pace = Adaptive()
    drive(pace, saving(100 * MIB, saved=10 * MIB), seconds=60)
    assert pace.slow_downs >= 3
    assert pace.capacity <= 1.2 * 100 * MIB


def test_adaptive_learns_nothing_between_copies() -> None:
    """A throttled disk that was left alone for an hour is not faster for it."""
    pace = Adaptive()
    disk = throttled(100 * MIB)
    drive(pace, disk, seconds=30)
    known = pace.slow_downs
    drive(pace, disk, seconds=10, since=3600)
    assert pace.slow_downs == known


@pytest.mark.parametrize("disk", [steady, throttled], ids=["steady", "throttled"])
def test_adaptive_is_not_worn_down_by_a_machine_that_stands_still(disk: Callable[[float], Disk]) -> None:
    """The host takes the processors away for a moment, every 2 s or so: that says nothing about the disk."""
    rng = random.Random(1)
    stalls = [(at + rng.random(), rng.uniform(0.05, 0.3)) for at in range(0, 240, 2)]
    serve = disk(100 * MIB)

    def stalling(now: float, size: int) -> float:
        end = serve(now, size)
        return next((at + length for at, length in stalls if at <= end < at + length), end)

    written = drive(Adaptive(), stalling, seconds=240)
    assert rate_of(written, since=60) >= 0.65 * 100 * MIB


def test_adaptive_takes_hiccups_of_two_copies_for_two_hiccups() -> None:
    """The last window of one copy and the first of the next, an hour later, are not two in a row."""
    pace = Adaptive(rate=700.0 * MIB, capacity=1000.0 * MIB)
    disk = steady(1000 * MIB)
    drive(pace, lambda now, size: disk(now + (0.15 if now > 0.9 else 0.0), size), seconds=1)
    capacity = pace.capacity
    drive(pace, lambda now, size: disk(now + (0.15 if now < 3600.001 else 0.0), size), seconds=1, since=3600)
    assert pace.slow_downs == 0
    assert pace.capacity >= capacity


def test_adaptive_forgets_a_suspicion_between_copies() -> None:
    """A hiccup at the end of a copy and one at the start of the next, on a disk of which nothing is known."""
    pace = Adaptive()
    disk = steady(1000 * MIB)
    drive(pace, lambda now, size: disk(now + (0.15 if 0.9 < now < 0.901 else 0.0), size), seconds=1)
    drive(pace, lambda now, size: disk(now + (0.15 if now < 3600.001 else 0.0), size), seconds=1, since=3600)
    assert pace.slow_downs == 0


def test_adaptive_finds_the_new_speed_of_a_disk_that_lost_most_of_it() -> None:
    """What lasts is no bad moment: within a few seconds others have room again."""
    before, after = steady(100 * MIB), steady(25 * MIB)
    written = drive(Adaptive(), lambda now, size: (before if now < 20 else after)(now, size), seconds=32)
    assert 0.4 * 25 * MIB <= rate_of(written, since=24) <= 0.9 * 25 * MIB


def test_adaptive_never_starves() -> None:
    """However bad it looks, the copy goes on."""
    pace = Adaptive()
    drive(pace, steady(MIB // 2), seconds=60)
    assert LEAST_RATE <= pace.rate < math.inf


def test_adaptive_yields_once_while_others_wait() -> None:
    """PSI above the own waiting slows a slow disk's copy down, once: if it does not help, it is not the copy."""
    pace = Adaptive(rate=70.0 * MIB, capacity=100.0 * MIB)
    pace.stalled(1.0, 0.5)
    pace.stalled(3.0, 0.5)
    assert pace.rate == pytest.approx(70 * MIB * BACK_OFF)
    assert pace.slow_downs == 1


def test_adaptive_does_not_yield_on_a_fast_disk() -> None:
    """PSI does not tell disks apart: a disk that nobody waits for is not to blame."""
    pace = Adaptive()
    pace.stalled(1.0, 0.9)
    assert pace.rate == math.inf


@pytest.mark.parametrize("writers", [1, 2])
@pytest.mark.parametrize("rate", [100, 200, 400, 800])
@pytest.mark.parametrize("since", [0.0, 0.007, 0.013, 0.03, 0.05, 0.07, 0.09])
def test_adaptive_leaves_a_throttled_disk_to_others_from_the_first_copy_on(
    rate: int, writers: int, since: float
) -> None:
    """Nothing is known of the disk yet: finding its limit, and looking for it again, costs others 1 % of their time."""
    beside = Simulation(Adaptive(), BlockThrottle(rate * MIB), writers, probing=True)
    written = beside.run(24, since=since)
    assert sum(waited > 0.008 for waited in beside.waited) <= len(beside.waited) // 100
    assert rate_of(written) >= 0.7 * rate * MIB


def test_adaptive_stops_at_the_first_write_that_is_held() -> None:
    """The next slice would pass as much again at once, and hold everybody to its end."""
    late = 0
    for phase in range(20):
        beside = Simulation(Adaptive(), BlockThrottle(100 * MIB), probing=True)
        beside.run(1, since=phase / 200)
        late += sum(waited > 0.008 for waited in beside.waited)
    assert late <= 4.8 * 20


def test_adaptive_notices_a_throttle_of_a_disk_that_is_fast_on_average() -> None:
    """800 MiB/s: a MiB takes 1 ms on average, and yet who meets the throttle waits for half a slice."""
    pace = Adaptive()
    drive(pace, BlockThrottle(800 * MIB), seconds=2)
    assert 0.6 * 800 * MIB <= pace.rate <= 0.95 * 800 * MIB


def test_adaptive_takes_a_late_write_in_some_windows_for_nothing() -> None:
    """A busy machine delays a write now and then, by less than a limit would: the disk is not to blame."""
    fast = steady(2000 * MIB)

    def delayed(now: float, size: int) -> float:
        return fast(now, size) + (0.008 if now % 0.1 < 0.0006 else 0.0)

    pace = Adaptive()
    written = drive(pace, delayed, seconds=5)
    assert pace.slow_downs == 0
    assert rate_of(written) >= 0.9 * 2000 * MIB


def test_adaptive_meets_a_limit_that_was_found_too_high() -> None:
    """What is saved up makes a limit look higher than it is: writes that are late at the known rate correct it."""
    pace = Adaptive(rate=110.0 * MIB, capacity=125.0 * MIB, _trust_s=80.0)
    beside = Simulation(pace, BlockThrottle(100 * MIB), probing=True)
    beside.run(20)
    assert pace.capacity <= 112 * MIB
    assert sum(waited > 0.008 for waited in beside.waited[100:]) <= 5


@pytest.mark.parametrize("writers", [1, 2, 4])
@pytest.mark.parametrize(("before", "after"), [(300, 100), (100, 40)])
def test_adaptive_finds_a_limit_that_fell(before: int, after: int, writers: int) -> None:
    """All is late and less is written than asked for, for longer than a neighbour's moment: the new limit is found."""
    disk = BlockThrottle(before * MIB)

    def falling(now: float, size: int) -> float:
        if now >= 30:
            disk.rate = after * MIB
        return disk(now, size)

    beside = Simulation(Adaptive(), falling, writers, probing=True)
    beside.run(60)
    settled = beside.waited[-1000:]
    assert sum(waited > 0.008 for waited in settled) <= len(settled) // 100


@pytest.mark.parametrize("small", [4096, 65_536])
def test_adaptive_is_not_misled_by_a_small_write(small: int) -> None:
    """The tail of a file takes a hundredth of a chunk's time: the chunks after it are not late for that."""
    pace, disk, now = Adaptive(), steady(100 * MIB), 0.0
    for number in range(3000):
        size = small if number % 65 == 64 else MIB
        start = now + pace.turn(now, size)
        now = disk(start, size)
        pace.done(now, size, now - start)
    assert pace.rate >= 0.6 * 100 * MIB


def test_adaptive_forgets_a_disk_that_had_all_but_stopped() -> None:
    """A minute at less than a MiB/s, then as fast as before: no rate is too low to be tested again."""
    slow, fast = steady(0.7 * MIB), steady(1000 * MIB)
    pace = Adaptive(rate=700.0 * MIB, capacity=1000.0 * MIB)
    written = drive(pace, lambda now, size: (slow if 20 <= now < 80 else fast)(now, size), seconds=900)
    assert rate_of(written, since=800) >= 0.9 * 1000 * MIB


def test_adaptive_does_not_climb_to_rates_at_which_nothing_was_written() -> None:
    """Files of 20 MiB with gaps between them, behind a throttle: a gap is no proof of a faster disk."""
    pace, disk = Adaptive(), BlockThrottle(100 * MIB)
    late = 0.0
    for number in range(120):
        written = drive(pace, disk, seconds=0.1, since=0.4 * number)
        late += sum(end - start > 0.02 for start, end in written) * (number >= 60)
    assert pace.rate < 100 * MIB
    assert late <= 4


@pytest.mark.parametrize("writers", [2, 4])
def test_adaptive_lets_a_disk_take_its_time_that_keeps_up(writers: int) -> None:
    """A file server answers after 10 ms, and serves many at once: nobody waits for anybody there."""
    written = drive(Adaptive(), lambda now, size: now + 0.01, seconds=30, writers=writers)
    assert rate_of(written, since=10) >= 0.65 * writers * 100 * MIB


def test_adaptive_bounds_what_late_writes_cost_that_it_cannot_help() -> None:
    """A disk that pauses for 10 ms whatever is asked of it: slower writes do not cure that."""
    fast = steady(1000 * MIB)

    def pausing(now: float, size: int) -> float:
        return fast(now, size) + (0.01 if now % 0.3 < 0.012 else 0.0)

    written = drive(Adaptive(rate=700.0 * MIB, capacity=1000.0 * MIB), pausing, seconds=300)
    assert rate_of(written, since=200) >= 0.45 * 1000 * MIB


def test_adaptive_does_not_write_more_for_yielding_during_a_test() -> None:
    """What others are to gain is less than before the test, not less than the test's own rate."""
    pace = Adaptive(rate=70.0 * MIB, capacity=100.0 * MIB)
    disk = steady(1000 * MIB)
    written = drive(pace, lambda now, size: disk(now, size), seconds=0.9)
    assert pace.rate == pytest.approx(PUSH * 100 * MIB)
    pace.stalled(written[-1][1] + 40, 0.5)
    assert pace.rate == pytest.approx(70 * MIB)


def behind_a_cache(pace: Adaptive, *, seconds: float, rate: float, flush: Callable[[int], float]) -> float:
    """Write for so long to a cache that takes *rate* bytes per second; *flush* takes bytes. Return bytes per second."""
    now, written, cached = 0.0, 0, 0
    while now < seconds:
        start = now + pace.turn(now, MIB)
        now = start + MIB / rate
        pace.done(now, MIB, now - start)
        written, cached = written + MIB, cached + MIB
        if cached >= pace.cache.batch:
            taken = flush(cached)
            now, cached = now + taken, 0
            pace.flushed(now, taken)
    return written / now


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "alone"])
@pytest.mark.parametrize("rate", [50, 100, 200])
def test_adaptive_leaves_room_on_a_disk_that_is_slow_behind_its_cache(rate: int, shared: bool) -> None:
    """Writes are done at once, and flushes take what the medium takes: that is the disk's speed, not the former."""
    pace, medium = Adaptive(), rate * MIB
    if shared:
        pace.cache.shared(math.inf)
    speed = behind_a_cache(pace, seconds=20, rate=3000 * MIB, flush=lambda cached: 0.0005 + cached / medium)
    assert 0.55 * medium <= speed <= 0.95 * medium
    assert pace.rate < 2 * medium
    if shared:
        assert pace.slow_downs > 0


def test_adaptive_does_not_hold_back_a_disk_whose_flush_takes_its_time() -> None:
    """An SSD that needs 8 ms for a flush, however much it is: nothing of that is a limit."""
    speed = behind_a_cache(Adaptive(), seconds=5, rate=600 * MIB, flush=lambda _: 0.008)
    assert speed >= 0.85 * 600 * MIB
