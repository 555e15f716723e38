"""How much may lie in a disk's write cache, against simulated ones."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from collector.copying.rate.flush_batch import ALONE_S, LEAST, MOST, SHARED_FOR_S, WriteCache
from collector.copying.rate.window import MIB

Flush = Callable[[float, int], float]
"""Takes MiB written before, and in the cache; returns seconds."""


def settle(
    cache: WriteCache, flush: Flush, *, mib: float, shared: bool = True, now: float = 0.0
) -> list[tuple[float, int, float]]:
    """Write *mib* in batches as told; return for each what was written before, its bytes, and what its flush took."""
    found, done = [], 0.0
    while done < mib:
        if shared:
            cache.shared(now)
        size = cache.batch
        taken = flush(done, size)
        found.append((done, size, taken))
        done, now = done + size / MIB, now + taken
        cache.flushed(now, taken)
    return found


def draining(own_s: float, per_mib_s: float, *, noise: float = 0.0, seed: int = 1) -> Flush:
    rng = random.Random(seed)
    return lambda _, size: (own_s + per_mib_s * size / MIB) * (1 + noise * rng.random())


@pytest.mark.parametrize("own_s", [0.0001, 0.001, 0.02])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_flush_that_drains_nothing_is_seldom_asked_for(own_s: float, noise: float) -> None:
    """A disk that keeps nothing back, or whose flush takes its time whatever lies there, loses next to nothing."""
    cache = WriteCache()
    flushed = settle(cache, draining(own_s, 0.0, noise=noise), mib=4096)
    assert cache.batch == MOST
    assert len(flushed) <= 4096 * MIB // MOST + 32


@pytest.mark.parametrize("per_mib_s", [0.0004, 0.0013, 0.002, 0.01])
def test_cache_that_drains_slowly_is_kept_small(per_mib_s: float) -> None:
    """A disk that is a file of its host: who syncs beside the copy waits for little, and not for all of it."""
    flushed = settle(WriteCache(), draining(0.0004, per_mib_s, noise=0.3), mib=4096)
    later = sorted(taken for done, _, taken in flushed if done > 64)
    assert later[len(later) // 2] <= max(0.004, 3 * per_mib_s)
    assert later[len(later) * 98 // 100] <= max(0.008, 6 * per_mib_s)


def test_cache_that_begins_to_drain_slowly_is_noticed() -> None:
    """The host runs short of memory: what took no time takes as long as its disk."""
    fast, slow = draining(0.0005, 0.0), draining(0.0005, 0.0013)
    cache = WriteCache()
    flushed = settle(cache, lambda done, size: (fast if done < 2048 else slow)(done, size), mib=8192)
    assert max(size for done, size, _ in flushed if done < 2048) == MOST
    assert max(size for done, size, _ in flushed if done > 3200) <= 8 * MIB


def test_cache_that_drains_quickly_again_is_noticed() -> None:
    """A batch that was too large is tried again, from the least one on, for the disk's own time may have changed."""
    slow, fast = draining(0.0005, 0.0013), draining(0.0005, 0.0)
    flushed = settle(WriteCache(), lambda done, size: (slow if done < 512 else fast)(done, size), mib=4096)
    assert max(size for done, size, _ in flushed if done < 512) <= 8 * MIB
    assert flushed[-1][1] == MOST


def test_neighbour_that_flushes_now_and_then_does_not_hide_what_a_flush_drains() -> None:
    """One flush in three finds the cache emptied: the others count."""
    drains = draining(0.0004, 0.0013)
    turns = iter(range(1 << 30))
    flushed = settle(WriteCache(), lambda done, size: 0.0004 if next(turns) % 3 == 0 else drains(done, size), mib=2048)
    assert max(size for done, size, _ in flushed if done > 32) <= 8 * MIB


def test_least_batch_is_the_least() -> None:
    """A flush that takes a second each: less than a MiB at a time would not help anybody."""
    cache = WriteCache()
    settle(cache, draining(0.0, 1.0), mib=64)
    assert LEAST <= cache.batch <= 4 * MIB


@pytest.mark.parametrize("per_mib_s", [0.0005, 0.001, 0.002])
def test_cache_that_nobody_else_flushes_is_drained_in_larger_batches(per_mib_s: float) -> None:
    """Small ones take a disk half its speed, and nobody is there to gain by it; large ones gain nothing more."""
    flushed = settle(WriteCache(), draining(0.0008, per_mib_s, noise=0.2), mib=4096, shared=False)
    assert len(flushed) <= 4096 / 8 * 1.5
    assert sum(taken > 1.5 * ALONE_S for _, _, taken in flushed) <= 0.1 * len(flushed)


def test_cache_is_kept_small_as_soon_as_somebody_else_flushes_it_and_for_a_while() -> None:
    """He syncs again, most likely: the one who syncs once a second waits once."""
    drains = draining(0.0008, 0.001)
    cache = WriteCache()
    settle(cache, drains, mib=1024, shared=False)
    assert cache.batch >= 16 * MIB
    cache.shared(now_s=100.0)
    assert cache.batch == LEAST
    later = settle(cache, drains, mib=1024, shared=False, now=100.0)
    assert max(size for _, size, _ in later) <= 4 * MIB
    last = settle(cache, drains, mib=1024, shared=False, now=100.0 + SHARED_FOR_S)
    assert last[-1][1] >= 16 * MIB
