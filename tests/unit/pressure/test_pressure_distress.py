"""Distress, judged by the last seconds of two counters, as recorded under different loads."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from collector.model.pressure import Distress, Tick
from collector.pressure.distress import KEPT, History

HALF_S = 0.5


def history(stalls: Iterable[int], stalled_ms: Iterable[float] | None = None, *, period_s: float = HALF_S) -> History:
    """Return readings, *period_s* apart: allocstall, and PSI's sum in milliseconds."""
    counts = list(stalls)
    sums = [None] * len(counts) if stalled_ms is None else [round(1000 * ms) for ms in stalled_ms]
    found = History()
    for number, (count, stalled) in enumerate(zip(counts, sums, strict=True)):
        found.add(Tick(taken_s=100.0 + number * period_s, allocstall=1000 + count, stalled_us=stalled))
    return found


def level(stalls: Iterable[int], stalled_ms: Iterable[float] | None = None) -> Distress:
    return history(stalls, stalled_ms).judge().level


QUIET = [0] * 16


def test_distress_is_calm_when_nothing_is_known() -> None:
    """Without two readings there is no distress."""
    assert History().judge() == (Distress.CALM, "")
    assert history([7]).judge() == (Distress.CALM, "")


@pytest.mark.parametrize(
    ("stalls", "expected"),
    [
        (QUIET, Distress.CALM),
        ([0] * 15 + [1], Distress.UNSETTLED),  # a single rise is noise, but not calm
        ([0] * 15 + [2], Distress.MILD),
        ([0] * 11 + [1, 1, 1, 1, 2], Distress.MILD),
        ([0] * 15 + [59], Distress.MILD),
        ([0] * 15 + [60], Distress.SEVERE),
        ([0] * 9 + [60] * 7, Distress.SEVERE),
        ([0] * 8 + [60] * 8, Distress.UNSETTLED),  # more than 3 s ago
        ([0] * 5 + [60] * 11, Distress.UNSETTLED),
        ([0] * 4 + [60] * 12, Distress.CALM),  # more than 5 s ago
    ],
)
def test_distress_goes_by_allocstall(stalls: list[int], expected: Distress) -> None:
    """2 in 3 s are mild, 60 severe; it is calm after 5 s without any."""
    assert level(stalls) is expected


def test_distress_during_a_copy_is_mild() -> None:
    """During `cp` allocstall rises by about 3 a second, PSI by 4 to 6 ms/s."""
    assert level([n * 3 // 2 for n in range(16)], [2.5 * n for n in range(16)]) is Distress.MILD


def test_distress_during_thrashing_is_severe_before_the_first_allocstall() -> None:
    """PSI grows by 75 to 90 ms/s and is early."""
    judged = history(QUIET, [0] * 12 + [80, 80, 80, 160]).judge()
    assert judged.level is Distress.SEVERE
    assert "ms in each second" in judged.reason


@pytest.mark.parametrize(("grown_ms", "expected"), [(59, Distress.CALM), (60, Distress.SEVERE)])
def test_distress_spreads_an_update_of_the_sums_over_its_period(grown_ms: float, expected: Distress) -> None:
    """The kernel updates its sums every 2 s: a step in them is not a rate."""
    short = history([0, 0], [0, grown_ms], period_s=0.3)
    assert short.judge().level is expected


def test_distress_goes_by_how_much_the_sums_grew() -> None:
    """They count since boot."""
    assert level([0, 0], [10**6, 10**6 + 1]) is Distress.CALM


@pytest.mark.parametrize("sums", [(None, 10**9), (10**9, None)])
def test_distress_ignores_sums_that_are_not_there_all_the_time(sums: tuple[int | None, int | None]) -> None:
    """PSI may be switched on or off in the cgroup that is read."""
    ticks = (Tick(taken_s=100.0 + at, allocstall=0, stalled_us=stalled) for at, stalled in enumerate(sums))
    assert History(ticks).judge().level is Distress.CALM


def test_history_replaces_a_reading_that_is_too_close_to_the_one_before() -> None:
    """A quarter of a second apart is far enough."""
    found = History()
    for taken_s in (0.0, 0.125, 0.1875, 0.25, 0.4375):
        found.add(Tick(taken_s=taken_s, allocstall=0))
    assert [tick.taken_s for tick in found.ticks] == [0.0, 0.1875, 0.25, 0.4375]


def test_distress_says_why_with_its_numbers() -> None:
    """An engineer reads it in the manifest."""
    assert history([0] * 15 + [9]).judge().reason == "allocstall rose by 9 in 3.5 s: processes are in direct reclaim"


def test_history_ignores_what_is_long_ago() -> None:
    """A supervisor that was stopped for an hour knows nothing about it."""
    found = history([0, 0])
    found.add(Tick(taken_s=3700.0, allocstall=9000, stalled_us=10**9))
    assert found.judge().level is Distress.CALM


def test_history_is_bounded_and_covers_its_windows_at_any_rate() -> None:
    """A worker samples twenty times a second; 5 s of readings must still fit."""
    found = history(range(400), period_s=0.05)
    assert len(found.ticks) <= KEPT
    assert found.ticks[-1].taken_s - found.ticks[0].taken_s > 5.6
    assert found.judge().level is Distress.SEVERE  # 20 a second
    assert "in 3." in found.judge().reason


def test_history_can_be_continued() -> None:
    """A worker continues from what the supervisor saw."""
    assert History(history([0] * 15 + [60]).ticks).judge().level is Distress.SEVERE
