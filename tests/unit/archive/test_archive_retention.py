"""Retention: examples, and properties that hold for any archive."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.archive.layout import new_id
from collector.archive.retention import KeptIncident, holds_most, room_for, rules_for, to_delete
from collector.model.retention import RetentionRules
from collector.model.units import Bytes

DAY = 86_400.0
KEEP_ALL = RetentionRules(count=None, age_s=None, size_bytes=None)


def order(kept: KeptIncident) -> tuple[int, str]:
    """The order in which incidents were begun: what is older has the lower number, those without go by label."""
    return kept.number, kept.id


# The label says anything: the wall clock was set at random between any two incidents.
incidents = st.lists(
    st.builds(
        KeptIncident,
        id=st.floats(0, 4e9).map(new_id),
        number=st.integers(0, 60),
        age_s=st.none() | st.floats(-DAY, 100 * DAY),
        size_bytes=st.integers(0, 1 << 40),
        owner=st.sampled_from(["root", "uid 1", "uid 2", "unknown/a", "unknown/b"]),
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


def archive(*sizes: int) -> list[KeptIncident]:
    """Incidents of one, two, ... days before the last, whose labels run backwards."""
    last = len(sizes) - 1
    return [
        KeptIncident(id=f"{9 - n:02d}", number=n + 1, age_s=(last - n) * DAY, size_bytes=size)
        for n, size in enumerate(sizes)
    ]


def test_retention_keeps_the_newest_when_there_are_too_many() -> None:
    """The oldest go first, by their numbers: after a set-back of the wall clock they have the highest ids."""
    rules = RetentionRules(count=2, age_s=None, size_bytes=None)
    assert to_delete(archive(1, 1, 1, 1), rules) == ["09", "08"]


def test_retention_takes_incidents_without_a_number_for_the_oldest() -> None:
    """Those of earlier releases, among themselves by their labels."""
    old = [KeptIncident(id=name, number=0, age_s=0.0, size_bytes=1) for name in ("97", "98", "99")]
    rules = RetentionRules(count=2, age_s=None, size_bytes=None)
    assert to_delete([*archive(1), *old], rules) == ["97", "98"]


def test_retention_deletes_what_is_too_old() -> None:
    """Age counts from the end of the incident; who is exactly as old as allowed stays."""
    assert to_delete(archive(1, 1, 1), RetentionRules(count=None, age_s=2 * DAY, size_bytes=None)) == []
    assert to_delete(archive(1, 1, 1), RetentionRules(count=None, age_s=1.5 * DAY, size_bytes=None)) == ["09"]


def test_retention_bounds_the_whole_size() -> None:
    """Newest first, until the size is reached."""
    assert to_delete(archive(5, 5, 5), RetentionRules(count=None, age_s=None, size_bytes=10)) == ["09"]


def of(owner: str, number: int, size_bytes: int = 1, *, over_budget: bool = False) -> KeptIncident:
    return KeptIncident(
        id=f"{number:02d}",
        number=number,
        age_s=None,
        size_bytes=size_bytes,
        owner=owner,
        over_budget=over_budget,
    )


def test_retention_takes_from_the_owner_who_holds_most() -> None:
    """However many incidents one user has, those of others stay, and root's quarter does."""
    found = [of("root", 1), of("uid 2", 2), *(of("uid 1", number) for number in range(3, 12))]
    rules = RetentionRules(count=8, age_s=None, size_bytes=None)
    assert to_delete(found, rules) == ["03", "04", "05"]
    rules = RetentionRules(count=None, age_s=None, size_bytes=8)
    assert to_delete(found, rules) == ["03", "04", "05"]
    assert to_delete([of("root", 1, 2), of("uid 1", 2, 3), of("uid 1", 3, 4)], rules) == ["02"]
    assert to_delete([of("root", 1, 3), of("root", 2, 3), of("uid 1", 3, 3)], rules) == ["01"]


def test_retention_lets_nothing_beyond_a_budget_push_out_what_was_within() -> None:
    """A crash loop's incidents are counted by themselves, and have only the space that the others leave."""
    found = [of("root", 1), of("uid 1", 2), *(of("uid 1", number, over_budget=True) for number in range(3, 9))]
    assert to_delete(found, RetentionRules(count=2, age_s=None, size_bytes=None)) == ["03", "04", "05", "06"]
    assert to_delete(found, RetentionRules(count=None, age_s=None, size_bytes=4)) == ["03", "04", "05", "06"]
    full = [of("root", 1, 9), *found[2:]]
    assert to_delete(full, RetentionRules(count=None, age_s=None, size_bytes=4)) == [f"0{n}" for n in range(3, 8)]


def test_retention_deletes_nobody_elses_for_one_that_is_too_large() -> None:
    """The newest stays, whatever its size; when it no longer is, it goes by itself."""
    found = [of("root", 1, 3), of("uid 2", 2, 3), of("uid 1", 3, 100)]
    rules = RetentionRules(count=None, age_s=None, size_bytes=8)
    assert to_delete(found, rules) == []
    assert to_delete([*found, of("root", 4)], rules) == ["03"]
    assert to_delete([*found, of("root", 4)], rules, spare="03") == []


def test_retention_leaves_a_quarter_of_the_disk_free() -> None:
    """By the disk's size: what others have written there does not matter."""
    assert rules_for(KEEP_ALL, 100).size_bytes == 75
    assert rules_for(RetentionRules(size_bytes=Bytes(80)), 100).size_bytes == 75
    assert rules_for(RetentionRules(size_bytes=Bytes(70)), 100).size_bytes == 70
    assert rules_for(KEEP_ALL, -1).size_bytes == 1, "a reserve larger than the disk"


def test_retention_names_who_holds_most() -> None:
    """All programs of users who are not known together are one."""
    found = [of("root", 1, 4), of("unknown/a", 2, 3), of("unknown/b", 3, 3)]
    assert holds_most(found) == "unknown"
    assert holds_most([]) == ""


@pytest.mark.parametrize(
    ("free", "held", "roots", "room"),
    [
        (100, 0, 0, 37),
        (60, 40, 0, 17),
        (60, 40, 10, 22),
        (60, 40, 40, 30),
        (25, 75, 0, 0),
        (20, 80, 0, 0),
        (-5, 0, 0, 0),
    ],
)
def test_retention_shares_the_free_space(free: int, held: int, roots: int, room: int) -> None:
    """What is left of root's quarter stays free; of the rest, one incident takes at most half."""
    assert room_for(free_bytes=free, held_bytes=held, roots_bytes=roots) == room


@given(incidents, rules)
def test_retention_never_deletes_the_newest(found: list[KeptIncident], given_rules: RetentionRules) -> None:
    """Whatever the rules say, the last incident stays; nothing is deleted twice or invented."""
    doomed = to_delete(found, given_rules)
    assert len(doomed) == len(set(doomed))
    assert set(doomed) <= {kept.id for kept in found}
    if found:
        assert max(found, key=order).id not in doomed


@given(incidents, rules)
def test_retention_meets_its_rules(found: list[KeptIncident], given_rules: RetentionRules) -> None:
    """What stays, the newest aside, is within every rule."""
    doomed = set(to_delete(found, given_rules))
    stays = sorted((kept for kept in found if kept.id not in doomed), key=order)[:-1]
    if given_rules.count is not None:
        assert len(stays) <= given_rules.count
    if given_rules.size_bytes is not None:
        assert sum(kept.size_bytes for kept in stays) <= given_rules.size_bytes
    if given_rules.age_s is not None:
        assert all(kept.age_s is None or kept.age_s <= given_rules.age_s for kept in stays)


@given(incidents, rules)
def test_retention_deletes_the_oldest_and_nothing_without_a_rule(
    found: list[KeptIncident], given_rules: RetentionRules
) -> None:
    """What is deleted is too old by the archive's clock, or older than everything of its owner's that stays."""
    doomed = set(to_delete(found, given_rules))
    newest = max(found, key=order, default=None)
    for kept in found:
        if kept.id in doomed and not _is_too_old(kept, given_rules):
            assert given_rules.count is not None or given_rules.size_bytes is not None
            stays = (one for one in found if one.id not in doomed and one.owner == kept.owner and one is not newest)
            assert all(order(one) > order(kept) for one in stays)


@given(incidents, rules)
def test_retention_leaves_alone_who_holds_less_than_his_share(
    found: list[KeptIncident], given_rules: RetentionRules
) -> None:
    """Three quarters of a limit, divided by those who have incidents, are everybody's own."""
    newest = max(found, key=order, default=None)  # stays, however old it is, and counts
    gone = {kept.id for kept in found if _is_too_old(kept, given_rules) and kept is not newest}
    doomed = set(to_delete(found, given_rules)) - gone
    young = [kept for kept in found if kept.id not in gone]
    owners = {kept.owner.partition("/")[0] for kept in found}
    for owner in owners:
        own = [kept for kept in young if kept.owner.partition("/")[0] == owner]
        share = 0.75 / len(owners)
        few = given_rules.count is None or len(own) <= share * given_rules.count
        size = sum(kept.size_bytes for kept in own)
        if few and (given_rules.size_bytes is None or size <= share * given_rules.size_bytes):
            assert not doomed & {kept.id for kept in own}


@given(incidents, st.integers(), rules)
def test_retention_decides_on_others_as_if_nothing_were_beyond_a_budget(
    found: list[KeptIncident], chosen: int, given_rules: RetentionRules
) -> None:
    """However many a crash loop has, and however large, the same of all others go."""
    mixed = [replace(kept, over_budget=bool(chosen >> number & 1)) for number, kept in enumerate(found)]
    within = [kept for kept in mixed if not kept.over_budget]
    ids = {kept.id for kept in within}
    assert [one for one in to_delete(mixed, given_rules) if one in ids] == to_delete(within, given_rules)


def _is_too_old(kept: KeptIncident, rules: RetentionRules) -> bool:
    return rules.age_s is not None and kept.age_s is not None and kept.age_s > rules.age_s


@given(incidents, rules)
def test_retention_needs_one_pass(found: list[KeptIncident], given_rules: RetentionRules) -> None:
    """A second pass deletes nothing."""
    doomed = set(to_delete(found, given_rules))
    assert to_delete([kept for kept in found if kept.id not in doomed], given_rules) == []


def test_retention_spares_the_incident_just_archived() -> None:
    """While a long copy ran, newer incidents may have been sealed."""
    rules = RetentionRules(count=2, age_s=None, size_bytes=None)
    assert to_delete(archive(1, 1, 1), rules) == ["09"]
    assert to_delete(archive(1, 1, 1), rules, spare="09") == ["08"]
    rules = RetentionRules(count=1, age_s=None, size_bytes=None)
    assert to_delete(archive(1, 1, 1), rules, spare="09") == ["08"]
