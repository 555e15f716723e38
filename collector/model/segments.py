"""Which segments are copied, in what order, and why the others are not."""

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
    A segment that the crashed process has mapped, or that a glob names.

    *rank* is 0 for the crash's own, else the number of the glob, from 1. *data_bytes* is what is allocated. *gone* says
    why it cannot be copied.
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
    One line of ``segments.jsonl``: a segment, why it is wanted, and its artifact or why there is none.

    *limit_bytes* is set if only its beginning is copied.
    """

    name: str
    why: str
    size_bytes: int = 0
    data_bytes: int = 0
    artifact: str = ""
    limit_bytes: int | None = None
    not_taken: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentLimits:
    """Bytes of data per segment and in total; ``None`` for no limit."""

    max_each: int | None
    max_total: int | None


def rank(name: str, globs: tuple[str, ...]) -> tuple[int, str] | None:
    """Return a segment's rank among *globs* and the reason for it; ``None`` if none matches."""
    for number, glob in enumerate(globs, start=1):
        if matches(name, glob):
            return number, f"matches {glob}"
    return None


def matches(name: str, glob: str) -> bool:
    """Return whether *glob* matches a segment's path below the root or, if it has no ``/``, its base name."""
    return fnmatchcase(name, glob) or ("/" not in glob and fnmatchcase(name.rpartition("/")[2], glob))


def plan(candidates: Iterable[Candidate], *, order: Order, limits: SegmentLimits) -> list[tuple[Candidate, Planned]]:
    """
    Decide on every candidate, by rank and within a rank by *order*.

    A segment that exceeds what is left of the total is skipped; smaller ones after it may still fit.
    """
    left, taken = limits.max_total, 0
    planned = []
    for candidate in sorted(candidates, key=lambda found: _key(found, order)):
        cost = candidate.data_bytes if limits.max_each is None else min(candidate.data_bytes, limits.max_each)
        reason = candidate.gone
        if not reason and left is not None and cost > left:
            reason = f"its {cost} bytes exceed the {left} left of max_total"
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
