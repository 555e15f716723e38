"""Which segments are copied, in what order, and why the others are not."""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import msgspec

from collector.model.allotment import fitting
from collector.model.text import escape_name

OWN = "mapped by the crashed process"
OPENED = "open in the crashed process"


class Order(enum.StrEnum):
    """Which comes first among segments of the same rank."""

    SMALLEST = "smallest"
    LARGEST = "largest"
    NEWEST = "newest"


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """
    A segment that the crashed process has mapped or open, or that a glob names.

    *rank* is 0 for the crash's own, else the number of the glob, from 1. *owner* is the user whose file it is.
    *data_bytes* is what is allocated. *gone* says why it cannot be copied.
    """

    name: str
    rank: int
    why: str
    owner: str = ""
    size_bytes: int = 0
    data_bytes: int = 0
    mtime_ns: int = 0
    device: int = 0
    inode: int = 0
    gone: str = ""


class Planned(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One line of ``segments.jsonl``: a segment, why it is wanted, and its artifact or why there is none.

    *limit_bytes* is set if only its beginning is copied. *device*, *inode*, *size_bytes* and *mtime_ns* tell whether
    the file is still the same when a run that was cut off is continued.
    """

    name: str
    why: str
    size_bytes: int = 0
    data_bytes: int = 0
    artifact: str = ""
    limit_bytes: int | None = None
    not_taken: str = ""
    device: int = 0
    inode: int = 0
    mtime_ns: int = 0


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

    The crash's own take what they need of the total; what they leave is shared by the owners of the others. A segment
    that does not fit is skipped; smaller ones after it may still fit.
    """
    wanted = sorted(candidates, key=lambda found: urgency(found, order))
    costs = [0 if one.gone else one.data_bytes for one in wanted]
    if limits.max_each is not None:
        costs = [min(cost, limits.max_each) for cost in costs]
    reasons = [one.gone for one in wanted]
    if limits.max_total is not None:
        own = sum(1 for one in wanted if one.rank == 0)
        left = _take_own(costs[:own], limits.max_total, reasons)
        shares = fitting([(one.owner, cost) for one, cost in zip(wanted[own:], costs[own:], strict=True)], left)
        for number, fits in enumerate(shares, start=own):
            if not fits:
                reasons[number] = _beyond(costs[number], left)
    taken, planned = 0, []
    for candidate, cost, reason in zip(wanted, costs, reasons, strict=True):
        taken += not reason
        row = Planned(
            name=escape_name(candidate.name),
            why=candidate.why,
            size_bytes=candidate.size_bytes,
            data_bytes=candidate.data_bytes,
            artifact="" if reason else f"segments/{taken:04}",
            limit_bytes=cost if not reason and cost < candidate.data_bytes else None,
            not_taken=reason,
            device=candidate.device,
            inode=candidate.inode,
            mtime_ns=candidate.mtime_ns,
        )
        planned.append((candidate, row))
    return planned


def urgency(found: Candidate, order: Order) -> tuple[int, int, str]:
    """Return what candidates are sorted by: the most wanted first."""
    value = {
        Order.SMALLEST: found.data_bytes,
        Order.LARGEST: -found.data_bytes,
        Order.NEWEST: -found.mtime_ns,
    }[order]
    return found.rank, value, found.name


def _take_own(costs: list[int], left: int, reasons: list[str]) -> int:
    """Give a reason to each of the first candidates that does not fit; return what the others leave."""
    for number, cost in enumerate(costs):
        if cost > left:
            reasons[number] = _beyond(cost, left)
        else:
            left -= cost
    return left


def _beyond(cost: int, left: int) -> str:
    return f"its {cost} bytes exceed {f'the {left}' if cost > left else 'what is'} left of max_total"
