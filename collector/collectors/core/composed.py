"""An ELF core made of the kernel's notes and of chosen memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from collector.host.core_segments import ALIGN, MAX_ENTRIES, Segment, SegmentTable, core_head, notes_end
from collector.host.core_stream import DumpHead
from collector.host.elf_notes import raw_notes

PIECE_BYTES = 1 << 20
Piece = bytes | memoryview


class Composition(NamedTuple):
    """
    What a core is made of.

    *runs* returns the ranges of memory that it holds, by address; *content* their bytes. The first *note_bytes* of the
    kernel's notes are in it. *whole*: so are the segments of which it holds nothing, if there is room in the table.
    """

    head: DumpHead
    runs: Callable[[], Iterable[tuple[int, int]]]
    content: Callable[[int, int], Iterator[bytes | bytearray]]
    note_bytes: int
    whole: bool = True


def nothing(*_: int) -> Iterator[Any]:
    """Return no runs, and no content."""
    return iter(())


def whole_notes(head: DumpHead, limit: int) -> int:
    """Return how many bytes of the notes make whole notes, at most *limit*."""
    end = 0
    for note in raw_notes(head.layout, head.notes):
        if note.end > limit:
            break
        end = note.end
    return end


def pieces(composition: Composition) -> Iterator[Piece]:
    """
    Yield the core, in pieces of at most 1 MiB.

    Its segments are the kernel's, divided into what it holds and what it does not.
    """
    head, runs, content, note_bytes, whole = composition
    segments = head.segments()
    count = sum(1 for _ in divided(segments, runs(), whole=whole))
    if count >= MAX_ENTRIES:
        whole = False
        count = sum(1 for _ in divided(segments, runs(), whole=False))
    loads = divided(segments, runs(), whole=whole)
    yield from joined_pieces(core_head(head.layout, head.data[:64], note_bytes, loads, count=count))
    for at in range(0, note_bytes, PIECE_BYTES):
        yield head.notes[at : min(note_bytes, at + PIECE_BYTES)]
    yield bytes(-notes_end(head.layout, note_bytes, count) % ALIGN)
    held = (segment for segment in divided(segments, runs(), whole=False) if segment.file_bytes)
    yield from joined_pieces(piece for segment in held for piece in content(segment.start, segment.end))


def divided(segments: SegmentTable, runs: Iterable[tuple[int, int]], *, whole: bool) -> Iterator[Segment]:
    """
    Yield *segments* divided at the ends of *runs*, with offsets from 0 on; *whole*: also the parts in no run.

    What of a run is in no segment is left out.
    """
    offset = 0
    remaining = iter(runs)
    low, high = next(remaining, (0, 0))
    for segment in segments:
        at = segment.start
        while high and low < segment.end:
            start, end = max(low, at), min(high, segment.end)
            if start < end:
                if whole and start > at:
                    yield Segment(at, start - at, offset, 0, segment.flags)
                yield Segment(start, end - start, offset, end - start, segment.flags)
                offset += end - start
                at = end
            if high > segment.end:
                break
            low, high = next(remaining, (0, 0))
        if whole and at < segment.end:
            yield Segment(at, segment.end - at, offset, 0, segment.flags)


def joined_pieces(small: Iterable[bytes | bytearray]) -> Iterator[bytes]:
    """Join pieces, none longer than 1 MiB, to pieces of about 64 KiB."""
    buffer = bytearray()
    for piece in small:
        if buffer and len(buffer) + len(piece) > 1 << 16:
            yield bytes(buffer)
            buffer.clear()
        buffer += piece
    if buffer:
        yield bytes(buffer)
