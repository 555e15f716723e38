"""Retention: which sealed incidents to delete. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from collector.model.retention import RetentionRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """
    A sealed incident as retention sees it.

    Args:
        id: A label by the wall clock.
        number: The archive's count; incidents of earlier releases have 0, and are older than all others.
        age_s: Seconds by the archive's own clock since it was sealed; ``None``: unknown, which is not old.
        size_bytes: Bytes on disk.
    """

    id: str
    number: int
    age_s: float | None
    size_bytes: int

    @property
    def order(self) -> tuple[int, str]:
        return self.number, self.id


def to_delete(incidents: Iterable[Kept], rules: RetentionRules, *, need_bytes: int = 0, spare: str = "") -> list[str]:
    """
    Return the ids to delete, oldest first.

    The newest incident always stays. So does the one to spare: while a long copy ran, newer ones may have been sealed.

    Args:
        incidents: All sealed incidents, in any order.
        rules: What to keep.
        need_bytes: Minimum to free, whatever the rules say.
        spare: The id of an incident never to delete.
    """
    newest_first = sorted(incidents, key=lambda kept: kept.order, reverse=True)
    total = 0
    kept: list[Kept] = []
    gone: list[Kept] = []
    for place, incident in enumerate(newest_first):
        total += incident.size_bytes
        over = (
            (rules.count is not None and place >= rules.count)
            or (rules.age_s is not None and incident.age_s is not None and incident.age_s > rules.age_s)
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
    return [incident.id for incident in sorted(gone, key=lambda kept: kept.order)]
