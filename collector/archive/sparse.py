"""
Members of a tar archive without their holes: the format that GNU tar calls PAX 1.0, and that Python's tarfile reads.

A member's data begins with a map in decimal numbers, each on its own line, filled up to 512 bytes: how many ranges hold
data, then the offset and the length of each. The ranges follow. Source: GNU tar manual, "Storing Sparse Files".
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterable, Sequence

MAX_RANGES = 50_000
"""Longest map, 2 MiB of memory; shorter holes are then written out as zeros."""

FIRST_GAP = 4096


class SparseMap:
    """The ranges of a file of *size* bytes that hold data, at most *most*."""

    def __init__(self, ranges: Iterable[tuple[int, int]], size: int, *, most: int = MAX_RANGES) -> None:
        self.size = size
        self.ranges: list[tuple[int, int]] = []
        gap = FIRST_GAP
        for one in ranges:
            self.ranges.append(one)
            if len(self.ranges) > most:
                self.ranges = list(_merged(self.ranges, gap))
                while len(self.ranges) > most // 2:
                    gap *= 2
                    self.ranges = list(_merged(self.ranges, gap))

    @property
    def data_bytes(self) -> int:
        return sum(end - start for start, end in self.ranges)

    @property
    def has_holes(self) -> bool:
        return self.data_bytes < self.size

    def text(self) -> bytes:
        """Return the map; its last range, which is empty, says how long the file is."""
        entries = [(start, end - start) for start, end in self.ranges] + [(self.size, 0)]
        numbers = [len(entries), *(number for entry in entries for number in entry)]
        text = "".join(f"{number}\n" for number in numbers).encode()
        return text + bytes(-len(text) % tarfile.BLOCKSIZE)


def describe_sparse(member: tarfile.TarInfo, text: bytes, found: SparseMap) -> None:
    """Make *member* one without holes, whose data are the map *text* and the ranges."""
    directory, _, name = member.name.rpartition("/")
    member.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": member.name,
        "GNU.sparse.realsize": str(found.size),
    }
    # What a program that does not know the format unpacks.
    member.name = f"{directory}/GNUSparseFile.0/{name}"
    member.size = len(text) + found.data_bytes


def _merged(ranges: Sequence[tuple[int, int]], gap: int) -> Iterable[tuple[int, int]]:
    """Yield the ranges, joined across holes of at most *gap* bytes."""
    start, end = ranges[0]
    for low, high in ranges[1:]:
        if low - end > gap:
            yield start, end
            start = low
        end = high
    yield start, end
