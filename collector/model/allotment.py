"""Which things of several owners fit into one limit. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from collector.model.owners import is_protected
from collector.model.shares import RESERVED


def allot(wanted: Mapping[str, float], limit: float) -> dict[str, float]:
    """
    Return how much of *limit* each owner gets: everybody the same, as far as he wants it; root and the units more.

    Args:
        wanted: What each owner wants.
        limit: What there is for all of them.
    """
    more = {owner: RESERVED * limit if is_protected(owner) else 0.0 for owner in wanted}
    allotted: dict[str, float] = {}
    left, reserved = limit, sum(more.values())
    # Whoever wants least goes first: what he does not want is there for the others.
    for number, owner in enumerate(sorted(wanted, key=lambda one: wanted[one] - more[one])):
        even = max(left - reserved, 0.0) / (len(wanted) - number)
        allotted[owner] = min(wanted[owner], even + more[owner], left)
        left -= allotted[owner]
        reserved -= more[owner]
    return allotted


def fitting(things: Sequence[tuple[str, int]], limit: int) -> list[bool]:
    """
    Return which of *things* fit into *limit*.

    Each owner first fills what is allotted to him; what then is left goes to whatever still fits. A thing that does not
    fit is skipped, and smaller ones after it may still fit.

    Args:
        things: The owner and the size of each, the most wanted first.
        limit: What all of them may take together.
    """
    wanted: Counter[str] = Counter()
    for owner, size in things:
        wanted[owner] += size
    allotted = allot(wanted, limit)
    fits = [False] * len(things)
    spare = limit
    for number, (owner, size) in enumerate(things):
        if size <= allotted[owner] and size <= spare:
            allotted[owner] -= size
            spare -= size
            fits[number] = True
    for number, (_, size) in enumerate(things):
        if not fits[number] and size <= spare:
            spare -= size
            fits[number] = True
    return fits
