"""What the ledger's rows hold, and by what a marker is recognized."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import xxhash

from collector.model.case import Fate
from collector.model.decode import MalformedError, decode
from collector.model.marker import IDENTITY, Marker
from collector.model.text import parse_number


class LedgerEntry(NamedTuple):
    """A marker with its number, fate and pipeline, how often it was tried, and the incident begun for it."""

    id: int
    marker: Marker
    fate: Fate
    pipeline: str
    tries: int
    incident: str | None


def identity(marker: Marker) -> str | None:
    """
    Return a key by which a marker is recognized after a restart; ``None`` if it cannot be seen twice.

    A core is identified by device, inode, size and mtime: not by its path, which the next core may reuse, nor its
    ctime, which hard-linking it changes. Other markers have the key in ``attributes["identity"]``.
    """
    if marker.core is not None:
        core = marker.core
        return f"core:{core.device}:{core.inode}:{core.size_bytes}:{core.mtime_ns}"
    source = marker.attributes.get(IDENTITY)
    return f"{marker.trigger}:{source}" if source else None


def short_identity(key: str) -> int:
    """
    Return a number, as SQLite stores them, that stands for an identity.

    It begins with 23 bits of the key's third part, an inode or the number of a line: what comes one after another is
    stored side by side, and 3.2 KiB are written for a marker instead of 7.1. 40 bits are a hash: somebody who fills the
    ledger with versions of one inode has a chance of 1 in 5 million of a false one.
    """
    place = (key.split(":", 3)[2:3] or [""])[0]
    # hashlib would cost the daemon 3.7 MiB (libcrypto). What another user's next core is, to the nanosecond of its
    # mtime, cannot be chosen in advance, and so no collision with it.
    digest = xxhash.xxh3_64_intdigest(key.encode(errors="backslashreplace")) & 0xFF_FFFF_FFFF
    return ((parse_number(place) or 0) & 0x7F_FFFF) << 40 | digest


def readable(rows: Iterable[tuple[Any, ...]], *, shift: int = 0) -> tuple[list[LedgerEntry], list[int]]:
    """
    Return the entries that *rows* hold (id, marker, fate, pipeline, tries, incident), and the ids of those damaged.

    Args:
        rows: As the file has them.
        shift: Row id minus marker number.
    """
    entries, damaged = [], []
    for row, marker, fate, pipeline, tries, incident in rows:
        try:
            known = decode(marker, Marker), Fate(fate), str(pipeline), int(tries)
        except (MalformedError, ValueError, TypeError, OverflowError):
            damaged.append(row)
        else:
            entries.append(LedgerEntry(row - shift, *known, incident))
    return entries, damaged
