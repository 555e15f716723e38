"""Who pays for what: users, by the uids that are theirs. Pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import msgspec

ROOT = "root"
UNKNOWN = "unknown"
LANE = "/"
"""Separates an owner from a part of it that is accounted by itself: ``unknown/engine``."""

LANE_LENGTH = 64

# What a container usually gets of root's subordinate uids. Uids of the same size without an entry there are left alone:
# directory servers (SSSD, winbind) give people such numbers.
CONTAINER_UIDS = 0x10000


class SubordinateUids(msgspec.Struct, frozen=True, kw_only=True):
    """The *count* uids from *first* on, with which user *uid* may run processes in namespaces. Source: subuid(5)."""

    first: int
    count: int
    uid: int


class Owners(msgspec.Struct, frozen=True, kw_only=True):
    """
    The users of a machine.

    Args:
        subordinate: The uids that belong to another user.
        units: System units that have, like root, a share that nobody else can use.
    """

    subordinate: tuple[SubordinateUids, ...] = ()
    units: frozenset[str] = frozenset()

    def of(self, uid: int | None, *, unit: str | None = None, lane: str = "") -> str:
        """
        Return who pays.

        Args:
            uid: The real uid of a process, or a file's owner; ``None`` if it is not known.
            unit: The unit of a process as the kernel knows it, never as somebody says.
            lane: What tells apart those whose user is not known.
        """
        if unit in self.units:
            return f"unit {unit}"
        if uid is None:
            return f"{UNKNOWN}{LANE}{lane[:LANE_LENGTH]}" if lane else UNKNOWN
        uid = self._user(uid)
        return ROOT if uid == 0 else f"uid {uid}"

    def _user(self, uid: int) -> int:
        for one in self.subordinate:
            if one.first <= uid < one.first + one.count:
                # Root's are for containers, which have nothing else of root: each is a user of its own.
                return one.uid or uid - (uid - one.first) % CONTAINER_UIDS
        return uid


@functools.lru_cache(maxsize=1024)
def user_of(owner: str) -> str:
    """Return the owner that *owner* is a lane of, or itself."""
    return owner.partition(LANE)[0]


@functools.lru_cache(maxsize=1024)
def is_protected(owner: str) -> bool:
    """Return whether *owner* is root, a configured unit, or a lane of these."""
    return user_of(owner) == ROOT or owner.startswith("unit ")


def by_owner(counts: Mapping[str, float], *, most: int = 3) -> str:
    """Return who has how much, for a reason: the *most* with most, and how many others there are."""
    first = sorted(counts, key=lambda owner: -counts[owner])[:most]
    more = len(counts) - len(first)
    return ", ".join(f"{owner}: {counts[owner]:.0f}" for owner in first) + (f" and {more} others" if more else "")
