"""The flush batch against simulated write caches."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from collector.copying.rate.flush_batch import ALONE_S, LARGEST, SHARED_FOR_S, SMALLEST, FlushBatch
from collector.copying.rate.window import MIB

Flush = Callable[[float, int], float]
"""Takes MiB written before and bytes in the cache; returns seconds."""


def settle(
    batch: FlushBatch, flush: Flush, *, mib: float, shared: bool = True, now: float = 0.0
) -> list[tuple[float, int, float]]:
    """Write *mib* in batches; return for each the MiB written before, its bytes, and the seconds of its flush."""
    found, done = [], 0.0
    while done < mib:
        if shared:
            batch.mark_shared(now)
        size = batch.size
        taken = flush(done, size)
        found.append((done, size, taken))
        done, now = done + size / MIB, now + taken
        batch.record(now, taken)
    return found


def draining(own_s: float, per_mib_s: float, *, noise: float = 0.0, seed: int = 1) -> Flush:
    rng = random.Random(seed)
    return lambda _, size: (own_s + per_mib_s * size / MIB) * (1 + noise * rng.random())


@pytest.mark.parametrize("own_s", [0.0001, 0.001, 0.02])
@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_flush_batch_grows_when_flushes_drain_nothing(own_s: float, noise: float) -> None:
    """A disk that caches nothing, or whose flush has a fixed cost only, loses next to nothing."""
    batch = FlushBatch()
    flushed = settle(batch, draining(own_s, 0.0, noise=noise), mib=4096)
    assert batch.size == LARGEST
    assert len(flushed) <= 4096 * MIB // LARGEST + 32


@pytest.mark.parametrize("per_mib_s", [0.0004, 0.0013, 0.002, 0.01])
def test_flush_batch_stays_small_when_the_cache_drains_slowly(per_mib_s: float) -> None:
    """A disk that is a file on its host: whoever syncs beside the copy waits for little of what it wrote."""
    flushed = settle(FlushBatch(), draining(0.0004, per_mib_s, noise=0.3), mib=4096)
    later = sorted(taken for done, _, taken in flushed if done > 64)
    assert later[len(later) // 2] <= max(0.004, 3 * per_mib_s)
    assert later[len(later) * 98 // 100] <= max(0.008, 6 * per_mib_s)


def test_flush_batch_shrinks_when_the_cache_begins_to_drain_slowly() -> None:
    """The host runs short of memory: what took no time now takes as long as its disk."""
    fast, slow = draining(0.0005, 0.0), draining(0.0005, 0.0013)
    batch = FlushBatch()
    flushed = settle(batch, lambda done, size: (fast if done < 2048 else slow)(done, size), mib=8192)
    assert max(size for done, size, _ in flushed if done < 2048) == LARGEST
    assert max(size for done, size, _ in flushed if done > 3200) <= 8 * MIB


def test_flush_batch_grows_again_when_the_cache_drains_quickly_again() -> None:
    """A batch that was too large is tried again, starting from the smallest: the fixed cost may have changed."""
    slow, fast = draining(0.0005, 0.0013), draining(0.0005, 0.0)
    flushed = settle(FlushBatch(), lambda done, size: (slow if done < 512 else fast)(done, size), mib=4096)
    assert max(size for done, size, _ in flushed if done < 512) <= 8 * MIB
    assert flushed[-1][1] == LARGEST


def test_flush_batch_is_not_misled_by_a_cache_that_others_drained() -> None:
    """One flush in three finds the cache empty: the others count."""
    drains = draining(0.0004, 0.0013)
    turns = iter(range(1 << 30))
    flushed = settle(FlushBatch(), lambda done, size: 0.0004 if next(turns) % 3 == 0 else drains(done, size), mib=2048)
    assert max(size for done, size, _ in flushed if done > 32) <= 8 * MIB


def test_flush_batch_never_shrinks_below_the_smallest() -> None:
    """If each flush takes a second, less than a MiB at a time would help nobody."""
    batch = FlushBatch()
    settle(batch, draining(0.0, 1.0), mib=64)
    assert SMALLEST <= batch.size <= 4 * MIB


@pytest.mark.parametrize("per_mib_s", [0.0005, 0.001, 0.002])
def test_flush_batch_is_larger_when_nobody_else_flushes(per_mib_s: float) -> None:
    """Small batches halve a disk's speed without helping anybody; larger ones gain nothing more."""
    flushed = settle(FlushBatch(), draining(0.0008, per_mib_s, noise=0.2), mib=4096, shared=False)
    assert len(flushed) <= 4096 / 8 * 1.5
    assert sum(taken > 1.5 * ALONE_S for _, _, taken in flushed) <= 0.1 * len(flushed)


def test_flush_batch_is_small_for_a_while_after_somebody_else_flushed() -> None:
    """Another flush is likely: a process that syncs once a second waits once."""
    drains = draining(0.0008, 0.001)
    batch = FlushBatch()
    settle(batch, drains, mib=1024, shared=False)
    assert batch.size >= 16 * MIB
    batch.mark_shared(now_s=100.0)
    assert batch.size == SMALLEST
    later = settle(batch, drains, mib=1024, shared=False, now=100.0)
    assert max(size for _, size, _ in later) <= 4 * MIB
    last = settle(batch, drains, mib=1024, shared=False, now=100.0 + SHARED_FOR_S)
    assert last[-1][1] >= 16 * MIB
