# ruff: noqa: S608 - statements are composed of constants
"""What the ledger may hold, and whose rows give way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from collector.archive.ledger_schema import OPEN, PARTS
from collector.model.case import PART_FATES, Fate
from collector.model.shares import gives_way

MAX_ROWS = 100_000
MAX_FILE_BYTES = 48 << 20
"""Of the file; its log comes on top (`ledgerfile.MAX_JOURNAL_BYTES`)."""

MAX_COUNTED = 20_000
MAX_PASSED = 200_000
"""Identities of markers without a row, 50 bytes each."""

ROWS_PER_MINUTE = 1200
"""Beyond his share of these, an owner's markers are counted: the first user has 300, root 600. All fat: 19 MiB."""

SLICE = 64
"""Rows deleted in one go, and added before bounds are checked again: 1 ms."""

REASON_LENGTH = 200
"""Of a reason that markers are counted under, unless they joined a crash: that reason names it, and is its own."""

ROW_BYTES = 512
"""What a row takes beside its marker, with its entries in five indexes."""

COUNT = (
    "INSERT INTO counted (minute, owner, trigger, fate, reason, count) {rows}"
    " ON CONFLICT (owner, minute, trigger, fate, reason) DO UPDATE SET count = count + excluded.count"
)
COUNTED_REASON = f"CASE WHEN fate IN ({PARTS}) THEN '' ELSE substr(reason, 1, {REASON_LENGTH}) END"
Statement = tuple[str, tuple[object, ...]]
Query = Callable[[str, tuple[object, ...]], list[Any]]


class Bound(NamedTuple):
    """At most *limit* rows of a table; an owner holds the *amount* (an SQL aggregate) of it."""

    table: str
    limit: int
    amount: str
    closed: str
    """Which rows may be deleted."""


def counted_reason(fate: Fate, reason: str) -> str:
    """Return what a marker without a row is counted under: `COUNTED_REASON`."""
    return "" if fate in PART_FATES else reason[:REASON_LENGTH]


def bounds() -> Iterator[Bound]:
    yield Bound("markers", MAX_ROWS, "sum(bytes)", f"fate NOT IN ({OPEN})")
    yield Bound("counted", MAX_COUNTED, "count(*)", "1")
    yield Bound("passed", MAX_PASSED, "count(*)", "1")


def surplus(query: Query, bound: Bound, *, is_full: bool) -> list[int]:
    """
    Return the ids of the rows to delete next, at most `SLICE`: the oldest of the owner who holds most.

    Args:
        query: Fetches rows.
        bound: The table and its limit.
        is_full: Its rows take too much space, however few they are.
    """
    rows = int(query(f"SELECT count(*) FROM {bound.table}", ())[0][0])
    excess = SLICE if is_full else min(SLICE, rows - bound.limit)
    if excess <= 0:
        return []
    held = dict(query(f"SELECT owner, {bound.amount} FROM {bound.table} GROUP BY owner", ()))
    limit = sum(held.values())
    while held:
        owner = gives_way(held, limit)
        found = query(
            f"SELECT id FROM {bound.table} WHERE owner = ? AND {bound.closed} ORDER BY id LIMIT ?", (owner, excess)
        )
        if found:
            return [row[0] for row in found]
        del held[owner]  # all that he has is still open
    return []


def deletion(table: str, ids: list[int]) -> Iterator[Statement]:
    """Yield the statements that delete rows; markers are counted instead, and still recognized."""
    minute = "CAST(at_s / 60 AS INTEGER)"
    chosen = f"id IN ({', '.join('?' * len(ids))})"
    if table == "markers":
        yield (
            COUNT.format(
                rows=f"SELECT {minute}, owner, trigger, fate, {COUNTED_REASON}, count(*)"
                f" FROM markers WHERE {chosen} GROUP BY 1, 2, 3, 4, 5"
            ),
            (*ids,),
        )
        yield (
            "INSERT OR IGNORE INTO passed (identity, owner) SELECT short_identity(identity), owner FROM markers"
            f" WHERE identity IS NOT NULL AND {chosen}",
            (*ids,),
        )
    yield f"DELETE FROM {table} WHERE {chosen}", (*ids,)
