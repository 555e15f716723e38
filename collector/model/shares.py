"""
Fair shares of what is limited: nobody pays for another. Pure.

Every bounded table has a column with the *owner* of each entry (`model.owners`). A quarter of every limit is for root
and the configured units alone. Of what can be taken back (a place in a queue, a row, an incident on disk), the owner
who holds most gives way. What cannot (an incident that was collected), each may take only while he has less than half
of what is left, so that something is left for whoever comes next: of 100, the first user gets 25, the second 17, then
11, 8 and so on.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from itertools import count
from typing import Generic, TypeVar

from collector.model.owners import is_protected, user_of

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
Rank = float | tuple[float, ...]

RESERVED = 0.25
"""The part of every limit that only root and the configured units can use."""


def has_room(used: Mapping[str, float], owner: str, limit: float) -> bool:
    """
    Return whether *owner* may take more of something that is not given back.

    What somebody took beyond his share at once, as one large incident does, costs nobody else.

    Args:
        used: What each owner has taken.
        owner: Who asks.
        limit: What all may take together.
    """
    whole = _by_owner(used)
    name = user_of(owner)
    own = whole.get(name, 0.0)
    protected = _within_shares((taken for one, taken in whole.items() if is_protected(one)), limit, 2)
    ordinary = _within_shares((taken for one, taken in whole.items() if not is_protected(one)), _for_all(limit), 3)
    left = limit - protected - ordinary
    share = left if is_protected(name) else min(left, _for_all(limit) - ordinary) / 2
    # Half of what is left for the owner may be taken by one lane of it.
    return own < share and (name == owner or used.get(owner, 0.0) < (share - own) / (1 + is_protected(name)))


def _for_all(limit: float) -> float:
    """Return the part of *limit* that is not reserved."""
    return (1 - RESERVED) * limit


def _within_shares(amounts: Iterable[float], limit: float, parts: int) -> float:
    """Return the sum of *amounts* without what exceeds one of so many *parts* of what the larger ones leave."""
    total = 0.0
    for amount in sorted(amounts, reverse=True):
        total += min(amount, (limit - total) / parts + 1)  # whoever is below his share may take a whole one
    return total


def gives_way(held: Mapping[str, float], limit: float) -> str:
    """
    Return the owner who has to give something back: who holds most, root and the units beyond their share.

    Args:
        held: What each owner holds, the first of them first if two hold the same; not empty.
        limit: What all may hold together.
    """

    def excess(owner: str) -> float:
        return whole[owner] - (RESERVED * limit if is_protected(owner) else 0.0)

    whole = _by_owner(held)
    name = max(whole, key=excess)
    return max((one for one in held if user_of(one) == name), key=lambda one: held[one])


def _by_owner(amounts: Mapping[str, float]) -> dict[str, float]:
    """Return the amounts with the lanes of an owner added up."""
    whole: dict[str, float] = {}
    for owner, amount in amounts.items():
        name = user_of(owner)
        whole[name] = whole.get(name, 0.0) + amount
    return whole


class PerMinute:
    """At most *limit* of something in a minute, in fair shares for its owners."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._since_s = -math.inf
        self._used: Counter[str] = Counter()

    def take(self, owner: str, now_s: float) -> bool:
        """Return whether *owner* may have one more at *now_s*, on a clock that only runs forward, and count it."""
        if now_s >= self._since_s + 60:
            self._since_s = now_s
            self._used.clear()
        if not has_room(self._used, owner, self.limit):
            return False
        self._used[owner] += 1
        return True


class FairTable(Generic[K, V]):
    """A dictionary of at most *limit* entries; if it is full, the oldest of the owner who holds most makes room."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._entries: dict[K, tuple[str, V]] = {}
        self._by_owner: dict[str, dict[K, None]] = {}

    def put(self, key: K, value: V, owner: str) -> tuple[K, V] | None:
        """Add an entry as its owner's newest, or replace it; return the entry that had to make room."""
        self.pop(key)
        self._entries[key] = owner, value
        self._by_owner.setdefault(owner, {})[key] = None
        if len(self._entries) <= self.limit:
            return None
        last = next(iter(self._by_owner[gives_way(self.held, self.limit)]))
        displaced = self.pop(last)
        return None if displaced is None else (last, displaced)

    def has_place(self, owner: str) -> bool:
        """Return whether one more of *owner* would displace nothing of his own."""
        if len(self._entries) < self.limit:
            return True
        held = self.held
        return gives_way(held | {owner: held.get(owner, 0.0) + 1}, self.limit) != owner

    def pop(self, key: K) -> V | None:
        """Remove an entry, if it is there, and return it."""
        if (entry := self._entries.pop(key, None)) is None:
            return None
        owner, value = entry
        keys = self._by_owner[owner]
        del keys[key]
        if not keys:
            del self._by_owner[owner]
        return value

    def get(self, key: K) -> V | None:
        entry = self._entries.get(key)
        return None if entry is None else entry[1]

    @property
    def held(self) -> dict[str, float]:
        """The number of entries of each owner."""
        return {owner: len(keys) for owner, keys in self._by_owner.items()}

    def items(self) -> Iterator[tuple[K, V]]:
        """Yield the entries, the oldest first."""
        return ((key, value) for key, (_, value) in self._entries.items())

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)


class FairChoice(Generic[V]):
    """
    The best *limit* of any number of things that are found one after another, in fair shares for their owners.

    Args:
        limit: Maximum number kept.
        rank: Returns how much one is wanted: the higher, the more.
    """

    def __init__(self, limit: int, rank: Callable[[V], Rank]) -> None:
        self.limit = limit
        self.left_out: Counter[str] = Counter()
        """How many of each owner were not kept."""
        self._rank = rank
        self._order = count()
        self._heaps: dict[str, list[tuple[Rank, int, V]]] = {}
        self._kept = 0

    def add(self, value: V, owner: str) -> None:
        """Consider one; of equals, the one found first is kept."""
        heapq.heappush(self._heaps.setdefault(owner, []), (self._rank(value), -next(self._order), value))
        self._kept += 1
        if self._kept > self.limit:
            last = gives_way({one: len(heap) for one, heap in self._heaps.items()}, self.limit)
            heapq.heappop(self._heaps[last])
            if not self._heaps[last]:
                del self._heaps[last]
            self.left_out[last] += 1
            self._kept -= 1

    def chosen(self) -> list[V]:
        """Return what is kept, the most wanted first."""
        found = (entry for heap in self._heaps.values() for entry in heap)
        return [value for _, _, value in sorted(found, key=lambda entry: entry[:2], reverse=True)]

    def __len__(self) -> int:
        return self._kept
