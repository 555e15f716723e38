"""Retention: examples, and properties that hold for any archive."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from collector.archive.layout import new_id
from collector.archive.retention import Kept, to_delete
from collector.model.retention import RetentionRules

DAY = 86_400.0
KEEP_ALL = RetentionRules(count=None, age_s=None, size_bytes=None)


def order(kept: Kept) -> tuple[int, str]:
    """The order in which incidents were begun: what is older has the lower number, those without go by label."""
    return kept.number, kept.id


# The label says anything: the wall clock was set at random between any two incidents.
incidents = st.lists(
    st.builds(
        Kept,
        id=st.floats(0, 4e9).map(new_id),
        number=st.integers(0, 60),
        age_s=st.none() | st.floats(-DAY, 100 * DAY),
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
    """Incidents of one, two, ... days before the last, whose labels run backwards."""
    last = len(sizes) - 1
    return [
        Kept(id=f"{9 - n:02d}", number=n + 1, age_s=(last - n) * DAY, size_bytes=size) for n, size in enumerate(sizes)
    ]


def test_retention_keeps_the_newest_when_there_are_too_many() -> None:
    """The oldest go first, by their numbers: after a set-back of the wall clock they have the highest ids."""
    rules = RetentionRules(count=2, age_s=None, size_bytes=None)
    assert to_delete(archive(1, 1, 1, 1), rules) == ["09", "08"]


def test_retention_takes_incidents_without_a_number_for_the_oldest() -> None:
    """Those of earlier releases, among themselves by their labels."""
    old = [Kept(id=name, number=0, age_s=0.0, size_bytes=1) for name in ("97", "98", "99")]
    rules = RetentionRules(count=2, age_s=None, size_bytes=None)
    assert to_delete([*archive(1), *old], rules) == ["97", "98"]


def test_retention_deletes_what_is_too_old() -> None:
    """Age counts from the end of the incident."""
    assert to_delete(archive(1, 1, 1), RetentionRules(count=None, age_s=1.5 * DAY, size_bytes=None)) == ["09"]


def test_retention_bounds_the_whole_size() -> None:
    """Newest first, until the size is reached."""
    assert to_delete(archive(5, 5, 5), RetentionRules(count=None, age_s=None, size_bytes=10)) == ["09"]


def test_retention_frees_what_is_needed() -> None:
    """A disk below its reserve gets room from the oldest incidents, whatever the rules keep."""
    assert to_delete(archive(5, 5, 5), KEEP_ALL, need_bytes=6) == ["09", "08"]


@given(incidents, rules, st.integers(0, 1 << 40))
def test_retention_never_deletes_the_newest(found: list[Kept], given_rules: RetentionRules, need_bytes: int) -> None:
    """Whatever the rules say, the last incident stays; nothing is deleted twice or invented."""
    doomed = to_delete(found, given_rules, need_bytes=need_bytes)
    assert len(doomed) == len(set(doomed))
    assert set(doomed) <= {kept.id for kept in found}
    if found:
        assert max(found, key=order).id not in doomed


@given(incidents, rules, st.integers(0, 1 << 40))
def test_retention_meets_its_rules(found: list[Kept], given_rules: RetentionRules, need_bytes: int) -> None:
    """What stays, the newest aside, is within every rule."""
    doomed = set(to_delete(found, given_rules, need_bytes=need_bytes))
    stays = sorted((kept for kept in found if kept.id not in doomed), key=order)[:-1]
    if given_rules.count is not None:
        assert len(stays) < max(given_rules.count, 1)
    if given_rules.age_s is not None:
        assert all(kept.age_s is None or kept.age_s <= given_rules.age_s for kept in stays)
    if stays and need_bytes:
        freed = sum(kept.size_bytes for kept in found if kept.id in doomed)
        assert freed >= need_bytes


@given(incidents, rules)
def test_retention_deletes_the_oldest_and_nothing_without_a_rule(
    found: list[Kept], given_rules: RetentionRules
) -> None:
    """What is deleted is too old by the archive's clock, or older by number than everything that stays."""
    doomed = set(to_delete(found, given_rules))
    stays = [kept for kept in found if kept.id not in doomed]
    for kept in found:
        if kept.id in doomed and not _is_too_old(kept, given_rules):
            younger = [one for one in found if order(one) > order(kept)]
            over_count = given_rules.count is not None and len(younger) >= given_rules.count
            size = sum(one.size_bytes for one in (kept, *younger))
            assert over_count or (given_rules.size_bytes is not None and size > given_rules.size_bytes)
            assert all(order(one) > order(kept) for one in stays)


def _is_too_old(kept: Kept, rules: RetentionRules) -> bool:
    return rules.age_s is not None and kept.age_s is not None and kept.age_s > rules.age_s


@given(incidents, rules)
def test_retention_needs_one_pass(found: list[Kept], given_rules: RetentionRules) -> None:
    """A second pass deletes nothing."""
    doomed = set(to_delete(found, given_rules))
    assert to_delete([kept for kept in found if kept.id not in doomed], given_rules) == []


def test_retention_spares_the_incident_just_archived() -> None:
    """While a long copy ran, newer incidents may have been sealed."""
    rules = RetentionRules(count=2, age_s=None, size_bytes=None)
    assert to_delete(archive(1, 1, 1), rules) == ["09"]
    assert to_delete(archive(1, 1, 1), rules, spare="09") == []
    assert to_delete(archive(1, 1, 1), KEEP_ALL, need_bytes=99, spare="09") == ["08"]
