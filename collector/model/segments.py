"""Which segments are taken, in what order, and why the others are not."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import msgspec

from collector.model.text import escape_name

OWN = "mapped by the crashed process"


class Order(enum.StrEnum):
    """Which comes first among segments of the same rank."""

    SMALLEST = "smallest"
    LARGEST = "largest"
    NEWEST = "newest"


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """
    A segment that the crash or a glob names.

    *rank* is 0 for the crash's own, else the number of the glob, from 1. *data_bytes* is what is
    allocated. *gone* says why there is nothing to take.
    """

    name: str
    rank: int
    why: str
    size_bytes: int = 0
    data_bytes: int = 0
    mtime_ns: int = 0
    device: int = 0
    inode: int = 0
    gone: str = ""


class Planned(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One line of ``segments.jsonl``: a segment, why it was wanted, and where it is or why it is not.

    *limit_bytes* is set where only its beginning is taken.
    """

    name: str
    why: str
    size_bytes: int = 0
    data_bytes: int = 0
    artifact: str = ""
    limit_bytes: int | None = None
    not_taken: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bytes of data, each and in all; ``None`` for no limit."""

    max_each: int | None
    max_total: int | None


def rank(name: str, globs: tuple[str, ...]) -> tuple[int, str] | None:
    """Return the rank of a segment that a glob names, and why; ``None`` if none does."""
    for number, glob in enumerate(globs, start=1):
        if matches(name, glob):
            return number, f"matches {glob}"
    return None


def matches(name: str, glob: str) -> bool:
    """Say whether *glob* names a segment: by its path below the root, or by its base name if *glob* has no ``/``."""
    return fnmatchcase(name, glob) or ("/" not in glob and fnmatchcase(name.rpartition("/")[2], glob))


def plan(candidates: Iterable[Candidate], *, order: Order, limits: Limits) -> list[tuple[Candidate, Planned]]:
    """
    Decide on every candidate: the crash's own first, then glob by glob, within these by *order*.

    One that does not fit into what is left of the total is passed over, and smaller ones after it
    may still fit.
    """
    left, taken = limits.max_total, 0
    planned = []
    for candidate in sorted(candidates, key=lambda found: _key(found, order)):
        cost = candidate.data_bytes if limits.max_each is None else min(candidate.data_bytes, limits.max_each)
        reason = candidate.gone
        if not reason and left is not None and cost > left:
            reason = f"its {cost} bytes do not fit into the {left} that are left of max_total"
        artifact = ""
        if not reason:
            taken += 1
            artifact = f"segments/{taken:04}"
            left = left - cost if left is not None else None
        row = Planned(
            name=escape_name(candidate.name),
            why=candidate.why,
            size_bytes=candidate.size_bytes,
            data_bytes=candidate.data_bytes,
            artifact=artifact,
            limit_bytes=cost if not reason and cost < candidate.data_bytes else None,
            not_taken=reason,
        )
        planned.append((candidate, row))
    return planned


def _key(found: Candidate, order: Order) -> tuple[int, int, str]:
    value = {
        Order.SMALLEST: found.data_bytes,
        Order.LARGEST: -found.data_bytes,
        Order.NEWEST: -found.mtime_ns,
    }[order]
    return found.rank, value, found.name
