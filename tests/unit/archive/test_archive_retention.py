"""Retention: examples, and properties that hold for any archive."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from collector.archive.retention import Kept, to_delete
from collector.model.retention import RetentionRules
from collector.runner.housekeeping import age_clock_s

DAY = 86_400.0
incidents = st.lists(
    st.builds(
        Kept,
        id=st.integers(0, 10_000).map(lambda n: f"{n:05d}"),
        ended_s=st.floats(0, 100 * DAY),
        size_bytes=st.integers(0, 1 << 40),
    ),
    unique_by=lambda kept: kept.id,
    max_size=30,
)
maybe = st.none() | st.integers(1, 40)
rules = st.builds(
    RetentionRules,
    count=maybe,
    age_s=st.none() | st.floats(0, 100 * DAY),
    size_bytes=st.none() | st.integers(0, 1 << 41),
)


def archive(*sizes: int) -> list[Kept]:
    return [Kept(id=f"{n:02d}", ended_s=n * DAY, size_bytes=size) for n, size in enumerate(sizes)]


def test_retention_keeps_the_newest_when_there_are_too_many() -> None:
    """The oldest go first."""
    assert to_delete(archive(1, 1, 1, 1), RetentionRules(count=2, age_s=None, size_bytes=None), now_s=0) == ["00", "01"]


def test_retention_deletes_what_is_too_old() -> None:
    """Age counts from the end of the incident."""
    assert to_delete(archive(1, 1, 1), RetentionRules(count=None, age_s=1.5 * DAY, size_bytes=None), now_s=3 * DAY) == [
        "00",
        "01",
    ]


def test_retention_bounds_the_whole_size() -> None:
    """Newest first, until the size is reached."""
    assert to_delete(archive(5, 5, 5), RetentionRules(count=None, age_s=None, size_bytes=10), now_s=0) == ["00"]


def test_retention_frees_what_is_needed() -> None:
    """A disk below its reserve gets room from the oldest incidents, whatever the rules keep."""
    keep_all = RetentionRules(count=None, age_s=None, size_bytes=None)
    assert to_delete(archive(5, 5, 5), keep_all, now_s=0, need_bytes=6) == ["00", "01"]


@given(incidents, rules, st.integers(0, 1 << 40), st.floats(0, 200 * DAY))
def test_retention_never_deletes_the_newest(
    found: list[Kept], given_rules: RetentionRules, need_bytes: int, now_s: float
) -> None:
    """Whatever the rules say, the last incident stays; nothing is deleted twice or invented."""
    doomed = to_delete(found, given_rules, now_s=now_s, need_bytes=need_bytes)
    assert doomed == sorted(set(doomed))
    assert set(doomed) <= {kept.id for kept in found}
    if found:
        assert max(kept.id for kept in found) not in doomed


@given(incidents, rules, st.integers(0, 1 << 40), st.floats(0, 200 * DAY))
def test_retention_meets_its_rules(
    found: list[Kept], given_rules: RetentionRules, need_bytes: int, now_s: float
) -> None:
    """What stays, the newest aside, is within every rule."""
    doomed = set(to_delete(found, given_rules, now_s=now_s, need_bytes=need_bytes))
    stays = sorted((kept for kept in found if kept.id not in doomed), key=lambda kept: kept.id)[:-1]
    if given_rules.count is not None:
        assert len(stays) < max(given_rules.count, 1)
    if given_rules.age_s is not None:
        assert all(now_s - kept.ended_s <= given_rules.age_s for kept in stays)
    if stays and need_bytes:
        freed = sum(kept.size_bytes for kept in found if kept.id in doomed)
        assert freed >= need_bytes


@given(incidents, rules, st.floats(0, 200 * DAY))
def test_retention_needs_one_pass(found: list[Kept], given_rules: RetentionRules, now_s: float) -> None:
    """A second pass deletes nothing."""
    doomed = set(to_delete(found, given_rules, now_s=now_s))
    assert to_delete([kept for kept in found if kept.id not in doomed], given_rules, now_s=now_s) == []


def test_retention_spares_the_incident_just_archived() -> None:
    """After the wall clock was set back, the newest incident has the oldest id."""
    rules = RetentionRules(count=2, age_s=None, size_bytes=None)
    assert to_delete(archive(1, 1, 1), rules, now_s=0.0) == ["00"]
    assert to_delete(archive(1, 1, 1), rules, now_s=0.0, spare="00") == []
    keep_all = RetentionRules(count=None, age_s=None, size_bytes=None)
    assert to_delete(archive(1, 1, 1), keep_all, now_s=0.0, need_bytes=99, spare="00") == ["01"]


def test_retention_does_not_follow_a_wall_clock_that_jumps_ahead() -> None:
    """A wrong date must not age the whole archive; setting the clock back makes nothing older."""
    now_s = time.time()
    assert age_clock_s(now_s + 365 * DAY) < now_s + 60
    assert age_clock_s(now_s - 365 * DAY) == now_s - 365 * DAY
