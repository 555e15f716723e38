"""What admission decides about a marker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from collector.model.case import Case, Fate


class Displaced(NamedTuple):
    """
    The *number* of a held or queued case that is suppressed now, whose it is, the limit that is reached, why, and the
    *trigger* that opened it.
    """

    number: int
    owner: str
    limit: str
    reason: str
    trigger: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """
    The decision about a marker.

    *case* is the case that it opened or joined, and *owner* who pays for it. *limit* is the limit that keeps it waiting
    or out, as the operator knows it (``storm.total``); empty if none was reached. *displaced* had to make room for it.
    *again* is how the case that it joined is ruled on by what it says, if that changes who pays.
    """

    fate: Fate
    reason: str = ""
    case: Case | None = None
    owner: str = ""
    limit: str = ""
    displaced: tuple[Displaced, ...] = ()
    again: Ruling | None = None
