"""What to copy and in which pieces: pure arithmetic on extents."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from collector.model.errors import PlanError

PAGE = mmap.PAGESIZE


@dataclass(frozen=True, slots=True)
class Extent:
    """A half-open range of bytes that holds data."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """
    One write.

    Args:
        start: First byte in the source.
        end: One past its last byte; unaligned only at the end of the source.
        extent: The extent that it is part of.
        before: Data bytes in all earlier chunks.
        solid: False if it spans a hole too small to be skipped.
    """

    start: int
    end: int
    extent: Extent
    before: int
    solid: bool = True

    @property
    def size(self) -> int:
        return self.end - self.start


def merge(extents: Iterable[Extent], *, align: int, end: int, gap: int = 0) -> Iterator[tuple[Extent, bool]]:
    """
    Widen extents to multiples of *align*, clip them to *end*, and join those that are then at most *gap* apart.

    Args:
        extents: Ordered and disjoint, as SEEK_DATA and SEEK_HOLE give them.
        align: Logical block size of the destination in bytes; a power of two.
        end: Where the copy ends.
        gap: Longest hole in bytes that is written rather than skipped: a hole of one block costs as much as an extent.

    Yields:
        Ordered, disjoint extents, each with whether it is data throughout.
    """
    start = stop = 0
    solid = True
    for extent in extents:
        low = extent.start // align * align
        high = min(-(-extent.end // align) * align, end)
        if high <= low:
            continue
        exact = low == extent.start and high == min(extent.end, end)
        if stop and low <= stop + gap:
            solid = solid and exact and extent.start == stop
            stop = max(stop, high)
            continue
        if stop:
            yield Extent(start, stop), solid
        start, stop, solid = low, high, exact
    if stop:
        yield Extent(start, stop), solid


def chunks(extents: Iterable[tuple[Extent, bool]], *, size: int, align: int) -> Iterator[Chunk]:
    """
    Cut extents into chunks that ``O_DIRECT`` accepts.

    Args:
        extents: As `merge` yields them.
        size: Maximum chunk length in bytes; a positive multiple of *align*. Chunks end at multiples of it, so that
            none straddles a huge page or a window.
        align: Logical block size in bytes; a power of two.

    Yields:
        Ordered chunks that cover the extents without gap or overlap; only the last may end unaligned.

    Raises:
        PlanError: If *size* is not a positive multiple of *align*, or *align* is not a power of two.

    Source: open(2), NOTES, "O_DIRECT"; statx(2), ``STATX_DIOALIGN`` (Linux 6.1).
    """
    if align <= 0 or align & (align - 1):
        raise PlanError(f"an alignment of {align} bytes is not a power of two")
    if size <= 0 or size % align:
        raise PlanError(f"a chunk of {size} bytes is not a positive multiple of {align}")
    before = 0
    for extent, solid in extents:
        start = extent.start
        while start < extent.end:
            end = min(extent.end, (start // size + 1) * size)
            yield Chunk(start, end, extent, before, solid)
            before += end - start
            start = end
