"""What to move and in what pieces: pure arithmetic over extents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from collector.model.errors import PlanError


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
        end: Behind its last byte; unaligned only at the end of the source.
        extent: What it was cut from.
        before: Data bytes of all earlier chunks.
        solid: False if it spans a hole too small to be worth a piece of its own.
    """

    start: int
    end: int
    extent: Extent
    before: int
    solid: bool = True

    @property
    def size(self) -> int:
        """Return the length in bytes."""
        return self.end - self.start


def merge(extents: Iterable[Extent], *, align: int, end: int, gap: int = 0) -> Iterator[tuple[Extent, bool]]:
    """
    Widen extents to multiples of *align*, clip them to *end*, and join those that are then no more than *gap* apart.

    Yields:
        Ordered, disjoint extents, each with whether it is data all through.

    Args:
        extents: Ordered and disjoint, as SEEK_DATA and SEEK_HOLE give them.
        align: Logical block of the destination; a power of two.
        end: Where the copy ends.
        gap: Longest hole that is not worth a write of its own. Of one block: it costs as much as an extent.
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
        size: Longest chunk in bytes; a positive multiple of *align*. Cuts fall on its multiples, so
            that chunks share huge pages and windows.
        align: Logical block in bytes; a power of two.

    Yields:
        Ordered chunks that tile the extents without gap or overlap; only the last may end unaligned.

    Raises:
        PlanError: If *size* is not a positive multiple of *align*, or *align* no power of two.

    Source: open(2), NOTES, "O_DIRECT"; statx(2), ``STATX_DIOALIGN`` (Linux 6.1).
    """
    if align <= 0 or align & (align - 1):
        raise PlanError(f"an alignment of {align} bytes is no power of two")
    if size <= 0 or size % align:
        raise PlanError(f"chunks of {size} bytes are no multiple of {align}")
    before = 0
    for extent, solid in extents:
        start = extent.start
        while start < extent.end:
            end = min(extent.end, (start // size + 1) * size)
            yield Chunk(start, end, extent, before, solid)
            before += end - start
            start = end
