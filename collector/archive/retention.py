"""Retention: which sealed incidents to delete. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from collector.model.retention import RetentionRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A sealed incident as retention sees it: bytes on disk, seconds since the epoch."""

    id: str
    ended_s: float
    size_bytes: int


def to_delete(
    incidents: Iterable[Kept], rules: RetentionRules, *, now_s: float, need_bytes: int = 0, spare: str = ""
) -> list[str]:
    """
    Return the ids to delete, oldest first.

    The newest incident always stays. So does the one to spare: if the wall clock was set back, the one just archived
    does not have the newest id.

    Args:
        incidents: All sealed incidents, in any order.
        now_s: Wall clock, seconds since the epoch.
        need_bytes: Minimum to free, whatever the rules say.
        spare: The id of an incident never to delete.
    """
    newest_first = sorted(incidents, key=lambda kept: kept.id, reverse=True)
    total = 0
    kept: list[Kept] = []
    gone: list[Kept] = []
    for place, incident in enumerate(newest_first):
        total += incident.size_bytes
        over = (
            (rules.count is not None and place >= rules.count)
            or (rules.age_s is not None and now_s - incident.ended_s > rules.age_s)
            or (rules.size_bytes is not None and total > rules.size_bytes)
        )
        stays = place == 0 or incident.id == spare or not over
        (kept if stays else gone).append(incident)
    freed = sum(incident.size_bytes for incident in gone)
    for oldest in [one for one in kept[:0:-1] if one.id != spare]:
        if freed >= need_bytes:
            break
        gone.append(oldest)
        freed += oldest.size_bytes
    return sorted(incident.id for incident in gone)
