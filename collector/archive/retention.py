"""Retention: which sealed incidents to delete. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from collector.model.owners import LANE, UNKNOWN
from collector.model.retention import RetentionRules
from collector.model.shares import RESERVED, gives_way
from collector.model.units import Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptIncident:
    """
    A sealed incident as retention sees it.

    Args:
        id: A label by the wall clock.
        number: The archive's count; incidents of earlier releases have 0, and are older than all others.
        age_s: Seconds by the archive's own clock since it was sealed; ``None``: unknown, which is not old.
        size_bytes: Bytes on disk when it was sealed.
        owner: Whose it is.
        over_budget: It was collected beyond a budget, without bulk.
    """

    id: str
    number: int
    age_s: float | None
    size_bytes: int
    owner: str = UNKNOWN
    over_budget: bool = False

    @property
    def order(self) -> tuple[int, str]:
        return self.number, self.id


def rules_for(rules: RetentionRules, usable_bytes: int) -> RetentionRules:
    """
    Return *rules* for a disk of *usable_bytes* above the reserve: the archive leaves a quarter of it free.

    What others have written to the disk must not matter: who fills a disk would otherwise decide what is deleted.
    """
    most = max(1, int((1 - RESERVED) * usable_bytes))
    size = most if rules.size_bytes is None else min(rules.size_bytes, most)
    return msgspec.structs.replace(rules, size_bytes=Bytes(size))


def to_delete(incidents: Iterable[KeptIncident], rules: RetentionRules, *, spare: str = "") -> list[str]:
    """
    Return the ids to delete, oldest first.

    What is too old goes. If there are too many, or they are too large, the oldest of the owner who holds most goes,
    again and again; a quarter is for root and the configured units alone. The newest incident always stays. So does the
    one to spare: while a long copy ran, newer ones may have been sealed. Where an owner holds most by these alone,
    nobody else has to make room for them.

    Those beyond a budget make no others go: they are counted by themselves, and only the space that the others leave is
    theirs.

    Args:
        incidents: All sealed incidents, in any order.
        rules: What to keep.
        spare: The id of an incident never to delete.
    """
    found = sorted(incidents, key=lambda kept: kept.order)
    within, repeats = ([kept for kept in found if kept.over_budget is over_budget] for over_budget in (False, True))
    stays = {spare, *(kept.id for kept in (*found[-1:], *within[-1:]))}
    gone = {kept.id for kept in found if _is_too_old(kept, rules) and kept.id not in stays}
    for limit, size_of in ((rules.count, _one), (rules.size_bytes, _bytes)):
        if limit is not None:
            left = limit
            for some in (within, repeats):
                gone.update(beyond(left, size_of, [kept for kept in some if kept.id not in gone], stays))
                if size_of is _bytes:
                    left = max(0, limit - sum(kept.size_bytes for kept in some if kept.id not in gone))
    return [kept.id for kept in found if kept.id in gone]


def holds_most(incidents: Iterable[KeptIncident]) -> str:
    """Return the owner whose incidents take the most space; empty if there are none."""
    held: dict[str, int] = {}
    for kept in incidents:
        name = kept.owner.partition(LANE)[0]
        held[name] = held.get(name, 0) + kept.size_bytes
    return max(held, key=lambda owner: held[owner], default="")


def room_for(*, free_bytes: int, held_bytes: int, roots_bytes: int) -> int:
    """
    Return how much of a disk's free space an incident of an ordinary user may use.

    A quarter of what the archive could have is for root and the configured units. Of the rest, an incident leaves half
    to whoever comes next.

    Args:
        free_bytes: Free space above the reserve.
        held_bytes: What all incidents hold.
        roots_bytes: What those of root and the units hold.
    """
    reserved = max(0, int(RESERVED * (free_bytes + held_bytes)) - roots_bytes)
    return max(0, free_bytes - reserved) // 2


def _is_too_old(kept: KeptIncident, rules: RetentionRules) -> bool:
    return rules.age_s is not None and kept.age_s is not None and kept.age_s > rules.age_s


def _one(_: KeptIncident) -> int:
    return 1


def _bytes(kept: KeptIncident) -> int:
    return kept.size_bytes


def beyond(
    limit: int, size_of: Callable[[KeptIncident], int], found: Sequence[KeptIncident], stays: set[str]
) -> set[str]:
    """Return the ids of those of *found*, the oldest first, that have to go so that the others are within *limit*."""
    held: dict[str, float] = {}
    mortal: dict[str, list[KeptIncident]] = {}
    for kept in reversed(found):
        held[kept.owner] = held.get(kept.owner, 0.0) + size_of(kept)
        own = mortal.setdefault(kept.owner, [])
        if kept.id not in stays:
            own.append(kept)
    gone: set[str] = set()
    while sum(held.values()) > limit:
        # Of owners who hold the same, one with something to give gives way, first the owner of the newest.
        owner = gives_way(dict(sorted(held.items(), key=lambda entry: not mortal[entry[0]])), limit)
        if mortal[owner]:
            oldest = mortal[owner].pop()
            held[owner] -= size_of(oldest)
            gone.add(oldest.id)
        else:
            del held[owner]
    return gone
