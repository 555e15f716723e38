"""Backtraces as lines of text; what is the same is shown once, with a count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from collector.model.units import counted
from collector.report.traces import Backtraces, ThreadTrace, TraceFrame

SHOWN_IDS = 8


def trace_lines(found: Backtraces) -> Iterator[str]:
    """Yield the lines: how the frames were found, then each thread; the crashed one stands alone."""
    yield f"{counted(len(found.threads), 'thread')}, by {found.by}"
    if found.problem:
        yield f"note: {found.problem}"
    for thread in found.threads[:1]:
        yield from ("", f"thread {thread.tid}, which crashed", *_frames(thread))
    alike: dict[tuple[tuple[TraceFrame, ...], str], list[ThreadTrace]] = {}
    for thread in found.threads[1:]:
        alike.setdefault((thread.frames, thread.ended), []).append(thread)
    for threads in alike.values():
        yield from ("", _title(threads), *_frames(threads[0]))


def _title(threads: Sequence[ThreadTrace]) -> str:
    if len(threads) == 1:
        return f"thread {threads[0].tid}"
    ids = ", ".join(str(thread.tid) for thread in threads[:SHOWN_IDS])
    more = ", ..." if len(threads) > SHOWN_IDS else ""
    return f"{len(threads)} threads: {ids}{more}"


def _frames(thread: ThreadTrace) -> Iterator[str]:
    number = 0
    for frame, repeated in groupby(thread.frames):
        count = sum(1 for _ in repeated)
        yield f"  #{number:<3} {_frame(frame)}{f'  ({count} times)' if count > 1 else ''}"
        number += count
    if thread.ended:
        yield f"  ended: {thread.ended}"


def _frame(frame: TraceFrame) -> str:
    place = f"{frame.module}+{frame.offset}" if frame.module else frame.offset
    if not frame.function:
        return place
    source = f" at {frame.source}" if frame.source else ""
    return f"{frame.function}{source}  [{'inlined in ' if frame.inlined else ''}{place}]"
