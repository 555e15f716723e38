"""What is in ``/dev/shm``: the files with the most data, in fair shares for their owners."""

from __future__ import annotations

import stat
from collections.abc import Iterator

import msgspec

from collector.collectors.shm.listing import ShmFile, walk
from collector.host.files import kind_of
from collector.host.tree import Tree
from collector.model.artifact import Truncated
from collector.model.owners import by_owner
from collector.model.shares import FairChoice
from collector.model.text import escape_name


class InventoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``inventory.jsonl``; *data_bytes* is what is allocated, *mode* is octal."""

    name: str
    kind: str
    size_bytes: int
    data_bytes: int
    uid: int
    gid: int
    mode: str
    mtime_s: float
    links: int


def inventory(tree: Tree[None], limit: int) -> Iterator[InventoryRow]:
    """
    Yield at most *limit* rows, those with the most data first.

    Raises:
        Truncated: At the end, if there are more.
    """
    rows: FairChoice[InventoryRow] = FairChoice(limit, rank=lambda row: row.data_bytes)
    for found in walk(tree):
        rows.add(_row(found), tree.owners.of(found.status.st_uid))
    yield from rows.chosen()
    if rows.left_out:
        raise Truncated(f"{rows.left_out.total()} files are beyond max_inventory ({by_owner(rows.left_out)})")
    if tree.left_out:
        raise Truncated(f"directories with too many names are not listed to their end ({by_owner(tree.left_out)})")


def _row(found: ShmFile) -> InventoryRow:
    status = found.status
    return InventoryRow(
        name=escape_name(found.name),
        kind=kind_of(status.st_mode),
        size_bytes=status.st_size,
        data_bytes=found.data_bytes,
        uid=status.st_uid,
        gid=status.st_gid,
        mode=f"{stat.S_IMODE(status.st_mode):04o}",
        mtime_s=status.st_mtime_ns / 1e9,
        links=status.st_nlink,
    )
