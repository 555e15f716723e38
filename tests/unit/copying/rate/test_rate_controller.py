"""The controller against simulated disks."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from simulated_disks import BlockThrottle, Disk, Simulation, drive, rate_of, saving, steady, throttled

from collector.copying.rate.controller import MIN_RATE, Controller
from collector.copying.rate.window import MIB


@pytest.mark.parametrize(("rate", "writers"), [(2500, 2), (1000, 4)])
def test_controller_does_not_hold_back_a_fast_disk(rate: int, writers: int) -> None:
    """NVMe: nobody notices waiting for a MiB, so none of its speed is given away, however many writes are in flight."""
    written = drive(Controller(), steady(rate * MIB), seconds=5, writers=writers)
    assert rate_of(written) >= 0.98 * rate * MIB


@pytest.mark.parametrize("writers", [1, 2, 4])
@pytest.mark.parametrize("disk", [steady, throttled], ids=["steady", "throttled"])
@pytest.mark.parametrize("rate", [20 * MIB, 100 * MIB, 300 * MIB])
def test_controller_leaves_room_on_a_slower_disk(disk: Callable[[float], Disk], rate: float, writers: int) -> None:
    """The copy gets most of a slower disk's speed, and others get the rest."""
    written = drive(Controller(), disk(rate), seconds=20, writers=writers)
    assert 0.62 * rate <= rate_of(written) <= 0.97 * rate
    settled = [end - start for start, end in written if 2 <= start < 8]
    assert sum(settled) / len(settled) <= 1.5 * MIB / rate


def test_controller_takes_one_slow_window_for_a_hiccup() -> None:
    """A fast disk that stands still for a moment is not a slow disk."""
    fast = steady(2500 * MIB)

    def hiccup(now: float, size: int) -> float:
        return fast(now + (0.15 if 1.0 <= now < 1.0005 else 0.0), size)

    controller = Controller()
    drive(controller, hiccup, seconds=3)
    assert controller.slow_downs == 0


def test_controller_backs_off_when_its_own_writes_slow_down() -> None:
    """Somebody else takes three quarters of the disk: the copy shrinks to what is left, not to zero."""
    whole, rest = steady(100 * MIB), steady(25 * MIB)
    written = drive(Controller(), lambda now, size: (whole if now < 5 else rest)(now, size), seconds=20)
    assert 0.4 * 25 * MIB <= rate_of(written, since=8) <= 25 * MIB


def test_controller_is_not_worn_down_by_bursts_of_others() -> None:
    """Every 3 s somebody occupies the disk for 0.5 s: the copy makes room, and does not get slower each time."""
    disk = throttled(100 * MIB)

    def burst(now: float, size: int) -> float:
        return disk(now + max(0.0, 0.5 - now % 3.0), size)

    written = drive(Controller(), burst, seconds=120)
    assert rate_of(written, since=60) >= 0.70 * 100 * MIB


def test_controller_finds_more_when_the_disk_becomes_faster() -> None:
    """Once the other writer is gone, the copy has the disk again."""
    slow, fast = steady(50 * MIB), steady(2000 * MIB)
    written = drive(Controller(), lambda now, size: (slow if now < 5 else fast)(now, size), seconds=120)
    assert rate_of(written, since=110) > 1500 * MIB


def test_controller_releases_a_disk_that_was_slow_for_a_moment() -> None:
    """Another machine on the same host takes the disk for 2 s in 20: the copy has it back 1.5 s later."""
    fast, slow = steady(1000 * MIB), steady(150 * MIB)
    written = drive(Controller(), lambda now, size: (slow if 2 <= now % 20 < 4 else fast)(now, size), seconds=60)
    for began in (5.5, 25.5, 45.5):
        assert rate_of([span for span in written if began <= span[0] < began + 14]) >= 0.95 * 1000 * MIB


@pytest.mark.parametrize(("seconds", "most"), [(40, 3), (300, 6)])
def test_controller_probes_a_throttle_less_and_less_often(seconds: float, most: int) -> None:
    """Below its limit a throttle looks like a fast disk: it is probed after 0.6 s, 5, 40, then every 80."""
    controller = Controller()
    drive(controller, throttled(100 * MIB), seconds=seconds)
    assert controller.slow_downs <= most


@pytest.mark.parametrize("rate", [102, 105])
def test_controller_does_not_sit_at_the_limit_of_a_throttle(rate: int) -> None:
    """Just above it writes are late although the disk is not busy: that is neither a stall nor a new normal."""
    controller = Controller(rate=rate * MIB, capacity=150.0 * MIB, probe_after_s=80.0)
    written = drive(controller, throttled(100 * MIB), seconds=60)
    late = [(start, end) for start, end in written if end - start > 0.015]
    assert sum(end - start for start, end in late) / 2 <= 0.01 * 60  # two writers


def test_controller_does_not_mistake_savings_for_speed() -> None:
    """Released and limited again: the first moment spends earlier savings and says little."""
    controller = Controller()
    drive(controller, saving(100 * MIB, saved=10 * MIB), seconds=60)
    assert controller.slow_downs >= 3
    assert controller.capacity <= 1.2 * 100 * MIB


def test_controller_learns_nothing_between_copies() -> None:
    """A throttled disk that was left alone for an hour is not faster for it."""
    controller = Controller()
    disk = throttled(100 * MIB)
    drive(controller, disk, seconds=30)
    known = controller.slow_downs
    drive(controller, disk, seconds=10, since=3600)
    assert controller.slow_downs == known


@pytest.mark.parametrize("disk", [steady, throttled], ids=["steady", "throttled"])
def test_controller_is_not_worn_down_by_a_machine_that_stalls(disk: Callable[[float], Disk]) -> None:
    """The host takes the processors away for a moment about every 2 s: that says nothing about the disk."""
    rng = random.Random(1)
    stalls = [(at + rng.random(), rng.uniform(0.05, 0.3)) for at in range(0, 240, 2)]
    serve = disk(100 * MIB)

    def stalling(now: float, size: int) -> float:
        end = serve(now, size)
        return next((at + length for at, length in stalls if at <= end < at + length), end)

    written = drive(Controller(), stalling, seconds=240)
    assert rate_of(written, since=60) >= 0.65 * 100 * MIB


def test_controller_does_not_join_hiccups_of_two_copies() -> None:
    """The last window of one copy and the first of the next, an hour later, are not consecutive."""
    controller = Controller(rate=700.0 * MIB, capacity=1000.0 * MIB)
    disk = steady(1000 * MIB)
    drive(controller, lambda now, size: disk(now + (0.15 if now > 0.9 else 0.0), size), seconds=1)
    capacity = controller.capacity
    drive(controller, lambda now, size: disk(now + (0.15 if now < 3600.001 else 0.0), size), seconds=1, since=3600)
    assert controller.slow_downs == 0
    assert controller.capacity >= capacity


def test_controller_forgets_a_suspicion_between_copies() -> None:
    """A hiccup at the end of one copy and another at the start of the next, on an unknown disk."""
    controller = Controller()
    disk = steady(1000 * MIB)
    drive(controller, lambda now, size: disk(now + (0.15 if 0.9 < now < 0.901 else 0.0), size), seconds=1)
    drive(controller, lambda now, size: disk(now + (0.15 if now < 3600.001 else 0.0), size), seconds=1, since=3600)
    assert controller.slow_downs == 0


def test_controller_finds_the_new_speed_when_the_disk_loses_most_of_it() -> None:
    """What lasts is not a stall: within a few seconds others have room again."""
    before, after = steady(100 * MIB), steady(25 * MIB)
    written = drive(Controller(), lambda now, size: (before if now < 20 else after)(now, size), seconds=32)
    assert 0.4 * 25 * MIB <= rate_of(written, since=24) <= 0.9 * 25 * MIB


def test_controller_never_starves() -> None:
    """However bad it looks, the copy goes on."""
    controller = Controller()
    drive(controller, steady(MIB // 2), seconds=60)
    assert MIN_RATE <= controller.rate < math.inf


@pytest.mark.parametrize("writers", [1, 2])
@pytest.mark.parametrize("rate", [100, 200, 400, 800])
@pytest.mark.parametrize("since", [0.0, 0.007, 0.013, 0.03, 0.05, 0.07, 0.09])
def test_controller_delays_few_writes_of_others_in_the_first_copy(rate: int, writers: int, since: float) -> None:
    """Finding the limit of an unknown disk, and probing it, makes at most 1 % of another process's writes late."""
    beside = Simulation(Controller(), BlockThrottle(rate * MIB), writers, probing=True)
    written = beside.run(24, since=since)
    assert sum(waited > 0.008 for waited in beside.waited) <= len(beside.waited) // 100
    assert rate_of(written) >= 0.7 * rate * MIB


@pytest.mark.parametrize("writers", [1, 2, 4])
def test_controller_does_not_count_savings_as_the_speed_that_a_probe_found(writers: int) -> None:
    """
    At 800 MiB/s a probe can end with a window of savings; the speed over the whole probe shows the limit.

    By that window alone 1.2 % of another process's writes were late in one of these phases, 0.3 % otherwise.
    """
    for phase in range(21):
        beside = Simulation(Controller(), BlockThrottle(800 * MIB), writers, probing=True)
        beside.run(24, since=phase / 210)
        assert sum(waited > 0.008 for waited in beside.waited) <= len(beside.waited) // 200, phase


def test_controller_stops_at_the_first_write_that_is_held_back() -> None:
    """The next slice would let as much through immediately, and then block everybody until its end."""
    late = 0
    for phase in range(20):
        beside = Simulation(Controller(), BlockThrottle(100 * MIB), probing=True)
        beside.run(1, since=phase / 200)
        late += sum(waited > 0.008 for waited in beside.waited)
    assert late <= 4.8 * 20


def test_controller_notices_a_throttle_when_the_disk_is_fast_on_average() -> None:
    """At 800 MiB/s a MiB takes 1 ms on average, yet whoever hits the throttle waits for half a slice."""
    controller = Controller()
    drive(controller, BlockThrottle(800 * MIB), seconds=2)
    assert 0.6 * 800 * MIB <= controller.rate <= 0.95 * 800 * MIB


def test_controller_ignores_a_late_write_in_some_windows() -> None:
    """A busy machine delays a write now and then, by less than a limit would: the disk is not to blame."""
    fast = steady(2000 * MIB)

    def delayed(now: float, size: int) -> float:
        return fast(now, size) + (0.008 if now % 0.1 < 0.0006 else 0.0)

    controller = Controller()
    written = drive(controller, delayed, seconds=5)
    assert controller.slow_downs == 0
    assert rate_of(written) >= 0.9 * 2000 * MIB


def test_controller_corrects_a_limit_that_was_found_too_high() -> None:
    """Savings make a limit look higher than it is: late writes at the known rate correct it."""
    controller = Controller(rate=110.0 * MIB, capacity=125.0 * MIB, probe_after_s=80.0)
    beside = Simulation(controller, BlockThrottle(100 * MIB), probing=True)
    beside.run(20)
    assert controller.capacity <= 112 * MIB
    assert sum(waited > 0.008 for waited in beside.waited[100:]) <= 5


@pytest.mark.parametrize("writers", [1, 2, 4])
@pytest.mark.parametrize(("before", "after"), [(300, 100), (100, 40)])
def test_controller_finds_a_lower_limit(before: int, after: int, writers: int) -> None:
    """Everything is late and less is written than asked for, for longer than a stall: the new limit is found."""
    disk = BlockThrottle(before * MIB)

    def falling(now: float, size: int) -> float:
        if now >= 30:
            disk.rate = after * MIB
        return disk(now, size)

    beside = Simulation(Controller(), falling, writers, probing=True)
    beside.run(60)
    settled = beside.waited[-1000:]
    assert sum(waited > 0.008 for waited in settled) <= len(settled) // 100


@pytest.mark.parametrize("small", [4096, 65_536])
def test_controller_is_not_misled_by_a_small_write(small: int) -> None:
    """The tail of a file takes a hundredth of a chunk's time: that does not make the chunks after it late."""
    controller, disk, now = Controller(), steady(100 * MIB), 0.0
    for number in range(3000):
        size = small if number % 65 == 64 else MIB
        start = now + controller.reserve(now, size)
        now = disk(start, size)
        controller.record(now, size, now - start)
    assert controller.rate >= 0.6 * 100 * MIB


def test_controller_recovers_when_the_disk_had_nearly_stopped() -> None:
    """A minute at less than a MiB/s, then as fast as before: no rate is too low to be probed again."""
    slow, fast = steady(0.7 * MIB), steady(1000 * MIB)
    controller = Controller(rate=700.0 * MIB, capacity=1000.0 * MIB)
    written = drive(controller, lambda now, size: (slow if 20 <= now < 80 else fast)(now, size), seconds=900)
    assert rate_of(written, since=800) >= 0.9 * 1000 * MIB


def test_controller_does_not_climb_to_rates_at_which_nothing_was_written() -> None:
    """Files of 20 MiB with gaps between them, behind a throttle: a gap does not prove a faster disk."""
    controller, disk = Controller(), BlockThrottle(100 * MIB)
    late = 0.0
    for number in range(120):
        written = drive(controller, disk, seconds=0.1, since=0.4 * number)
        late += sum(end - start > 0.02 for start, end in written) * (number >= 60)
    assert controller.rate < 100 * MIB
    assert late <= 4


@pytest.mark.parametrize("writers", [2, 4])
def test_controller_does_not_hold_back_a_disk_with_a_long_latency(writers: int) -> None:
    """A file server answers after 10 ms and serves many requests at once: nobody waits for anybody there."""
    written = drive(Controller(), lambda now, size: now + 0.01, seconds=30, writers=writers)
    assert rate_of(written, since=10) >= 0.65 * writers * 100 * MIB


def test_controller_is_not_worn_down_by_pauses_that_it_cannot_avoid() -> None:
    """A disk that pauses for 10 ms whatever the load: slower writes do not help."""
    fast = steady(1000 * MIB)

    def pausing(now: float, size: int) -> float:
        return fast(now, size) + (0.01 if now % 0.3 < 0.012 else 0.0)

    written = drive(Controller(rate=700.0 * MIB, capacity=1000.0 * MIB), pausing, seconds=300)
    assert rate_of(written, since=200) >= 0.45 * 1000 * MIB


def behind_a_cache(controller: Controller, *, seconds: float, rate: float, flush: Callable[[int], float]) -> float:
    """Write to a cache that takes *rate* bytes per second; *flush* maps bytes to seconds. Return bytes per second."""
    now, written, cached = 0.0, 0, 0
    while now < seconds:
        start = now + controller.reserve(now, MIB)
        now = start + MIB / rate
        controller.record(now, MIB, now - start)
        written, cached = written + MIB, cached + MIB
        if cached >= controller.flush_batch.size:
            taken = flush(cached)
            now, cached = now + taken, 0
            controller.record_flush(now, taken)
    return written / now


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "alone"])
@pytest.mark.parametrize("rate", [50, 100, 200])
def test_controller_leaves_room_when_the_disk_is_slow_behind_its_cache(rate: int, shared: bool) -> None:
    """Writes return immediately and flushes take as long as the medium: the medium's speed is the disk's."""
    controller, medium = Controller(), rate * MIB
    if shared:
        controller.flush_batch.mark_shared(math.inf)
    speed = behind_a_cache(controller, seconds=20, rate=3000 * MIB, flush=lambda cached: 0.0005 + cached / medium)
    assert 0.55 * medium <= speed <= 0.95 * medium
    assert controller.rate < 2 * medium
    if shared:
        assert controller.slow_downs > 0


def test_controller_does_not_hold_back_a_disk_with_slow_flushes() -> None:
    """An SSD whose flush takes 8 ms regardless of its size: that is not a limit."""
    speed = behind_a_cache(Controller(), seconds=5, rate=600 * MIB, flush=lambda _: 0.008)
    assert speed >= 0.85 * 600 * MIB
