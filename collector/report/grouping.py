"""Incidents of the same crash, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from collector.archive.summary import IncidentSummary
from collector.model.owners import user_of
from collector.report.signatures import SameCrash, how_it_ended


class IncidentGroup(msgspec.Struct, frozen=True, kw_only=True):
    """
    The incidents that have *key* in common, by the archive's count of them.

    *first* and *last* are seconds since the epoch, labels by the wall clock, of the first and the last by that count;
    *latest* is the id of the last.
    """

    by: str
    key: str
    count: int
    first_s: float
    last_s: float
    latest: str
    ended_by: str
    name: str
    users: tuple[str, ...]
    units: tuple[str, ...]


def grouped(found: Iterable[IncidentSummary], same: Callable[[IncidentSummary], SameCrash]) -> list[IncidentGroup]:
    """Return the groups of *found*, which is in the archive's order; the most frequent first, then the latest."""
    members: dict[SameCrash, list[IncidentSummary]] = {}
    for summary in found:
        members.setdefault(same(summary), []).append(summary)
    # Sorting is stable: of those with as many members, the one whose last incident is newer comes first.
    by_age = sorted(members, key=lambda key: (members[key][-1].number, members[key][-1].id), reverse=True)
    return [_group(key, members[key]) for key in sorted(by_age, key=lambda key: -len(members[key]))]


def _group(key: SameCrash, members: list[IncidentSummary]) -> IncidentGroup:
    first, last = members[0], members[-1]
    return IncidentGroup(
        by=key.by,
        key=key.key,
        count=len(members),
        first_s=first.started_s,
        last_s=last.started_s,
        latest=last.id,
        ended_by=how_it_ended(last.signal, last.exit_status, last.event),
        name=last.comm or last.unit or last.trigger,
        users=tuple(sorted({user_of(one.owner) for one in members if one.owner})),
        units=tuple(sorted({one.unit for one in members if one.unit})),
    )
