"""Dictionaries that keep their newest entries."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def put_newest(table: dict[K, V], key: K, value: V, limit: int) -> bool:
    """Add an entry as the newest; return whether that has dropped the oldest, to keep *limit* entries."""
    table.pop(key, None)
    table[key] = value
    if len(table) <= limit:
        return False
    del table[next(iter(table))]
    return True
