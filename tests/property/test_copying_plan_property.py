"""Properties of the plan for any layout of extents."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collector.copying.plan import Chunk, Extent, chunks, merge
from collector.model.errors import PlanError

PAGE = 4096


@st.composite
def layouts(draw: st.DrawFn) -> tuple[list[Extent], int]:
    """Draw ordered, disjoint extents in whole pages, and the end of a copy, as SEEK_DATA gives them."""
    lengths = draw(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 600)), max_size=30))
    at, extents = 0, []
    for gap, length in lengths:
        at += gap * PAGE
        if extents and extents[-1].end == at:
            at += PAGE
        extents.append(Extent(at, at + length * PAGE))
        at += length * PAGE
    end = draw(st.integers(0, at + 3 * PAGE))
    clipped = [Extent(e.start, min(e.end, end)) for e in extents if e.start < end]
    return clipped, end


ALIGNS = st.sampled_from([1, 512, 4096, 8192, 65536])
SIZES = st.sampled_from([65536, 131072, 1 << 20])


def plan(extents: list[Extent], end: int, align: int, size: int, gap: int = 0) -> list[Chunk]:
    return list(chunks(merge(extents, align=align, end=end, gap=gap), size=size, align=align))


@given(layouts(), ALIGNS, SIZES)
def test_chunks_cover_all_data_once_and_in_order(layout: tuple[list[Extent], int], align: int, size: int) -> None:
    """Every byte of data is in exactly one chunk."""
    extents, end = layout
    found = plan(extents, end, align, size)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))
    for extent in extents:
        assert (
            sum(max(0, min(c.end, extent.end) - max(c.start, extent.start)) for c in found) == extent.end - extent.start
        )


@given(layouts(), ALIGNS, SIZES)
def test_chunks_are_aligned_and_short(layout: tuple[list[Extent], int], align: int, size: int) -> None:
    """Each starts on a block, ends on one or at the end of the copy, and does not cross a multiple of the size."""
    extents, end = layout
    for chunk in plan(extents, end, align, size):
        assert chunk.start % align == 0
        assert chunk.end % align == 0 or chunk.end == end
        assert 0 < chunk.size <= size
        assert chunk.start // size == (chunk.end - 1) // size


@given(layouts(), ALIGNS, SIZES)
def test_chunks_add_less_than_a_block_at_each_end_of_an_extent(
    layout: tuple[list[Extent], int], align: int, size: int
) -> None:
    """Holes stay holes, apart from rounding and holes of one page."""
    extents, end = layout
    found = plan(extents, end, align, size)
    data = sum(extent.end - extent.start for extent in extents)
    assert sum(chunk.size for chunk in found) <= data + 2 * (align - 1) * len(extents)
    joined = plan(extents, end, align, size, gap=PAGE)
    assert sum(chunk.size for chunk in joined) <= data + (2 * (align - 1) + PAGE) * len(extents)
    assert len(joined) <= len(found)


@given(layouts(), ALIGNS, SIZES, st.sampled_from([0, PAGE]))
def test_chunks_are_solid_only_when_they_are_data_throughout(
    layout: tuple[list[Extent], int], align: int, size: int, gap: int
) -> None:
    """A chunk that may be mapped contains no hole: reading a mapped hole allocates it."""
    extents, end = layout
    for chunk in plan(extents, end, align, size, gap):
        if chunk.solid:
            inside = sum(max(0, min(chunk.end, e.end) - max(chunk.start, e.start)) for e in extents)
            assert inside == chunk.size


@given(layouts(), ALIGNS, SIZES)
def test_chunks_know_the_bytes_before_them(layout: tuple[list[Extent], int], align: int, size: int) -> None:
    """*before* is the sum of all earlier chunks."""
    total = 0
    for chunk in plan(*layout, align, size):
        assert chunk.before == total
        total += chunk.size


@pytest.mark.parametrize(("size", "align"), [(0, 4096), (-4096, 4096), (5000, 4096), (4096, 0), (4096, 3000)])
def test_chunks_refuse_sizes_and_alignments_that_do_not_fit(size: int, align: int) -> None:
    """An alignment is a power of two, and a chunk size a multiple of it."""
    with pytest.raises(PlanError):
        list(chunks([(Extent(0, 4096), True)], size=size, align=align))
