"""The threads of a core as a page shows them: those with the same frames once, each with its registers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from collector.model.incident import Manifest
from collector.report.archived_core import ArchivedThread
from collector.report.archived_lines import artifact_path, rows
from collector.report.page_text import BoundedRows, bounded, weight
from collector.report.traces import ThreadTrace, TraceFrame

SHOWN_IDS = 8
MAX_REGISTERS = 64


class PageFrame(NamedTuple):
    """A frame, its number, and how often it follows itself."""

    number: int
    times: int
    frame: TraceFrame


class PageThreads(NamedTuple):
    """Threads with the same frames; *left_out* counts frames, and *registers* are those of the first thread."""

    tids: tuple[int, ...]
    size: int
    crashed: bool
    frames: tuple[PageFrame, ...]
    left_out: int
    ended: str
    registers: tuple[tuple[str, str], ...] = ()


class AlikeThreads(NamedTuple):
    """The ids of threads with the same *frames*."""

    tids: list[int]
    frames: tuple[TraceFrame, ...]
    ended: str


def fold(threads: Sequence[ThreadTrace]) -> list[AlikeThreads]:
    """Return *threads*, the crashed one first and alone, the others by how many have the same frames."""
    alike: dict[tuple[tuple[TraceFrame, ...], str], list[int]] = {}
    for thread in threads[1:]:
        alike.setdefault((thread.frames, thread.ended), []).append(thread.tid)
    others = (AlikeThreads(sorted(tids), frames, ended) for (frames, ended), tids in alike.items())
    crashed = (AlikeThreads([thread.tid], thread.frames, thread.ended) for thread in threads[:1])
    return [*crashed, *sorted(others, key=lambda each: -len(each.tids))]


def shown_threads(folded: Sequence[AlikeThreads], *, most_bytes: int) -> BoundedRows[PageThreads]:
    """Return the first of *folded* that take at most *most_bytes* of a page; the crashed one always."""
    kept: list[PageThreads] = []
    for each in folded:
        row = _shown(each, crashed=not kept, most_bytes=most_bytes // 2)
        if (most_bytes := most_bytes - weight(row)) < 0:
            break
        kept.append(row)
    return BoundedRows(tuple(kept), len(folded) - len(kept))


def registers_of(
    incident: int, manifest: Manifest, threads: Sequence[PageThreads], *, most_bytes: int
) -> tuple[PageThreads, ...]:
    """Return *threads* with the registers of the first of each, from ``threads.jsonl``, as far as they fit."""
    wanted = {thread.tids[0] for thread in threads}
    known = {
        row.tid: tuple(row.registers.items())[:MAX_REGISTERS]
        for row in rows(incident, artifact_path(manifest, "core", "threads.jsonl"), ArchivedThread)
        if row.tid in wanted
    }
    fit = bounded((known.get(thread.tids[0], ()) for thread in threads), most_bytes=most_bytes).rows
    without = threads[len(fit) :]
    return (*(thread._replace(registers=found) for thread, found in zip(threads, fit, strict=False)), *without)


def _shown(each: AlikeThreads, *, crashed: bool, most_bytes: int) -> PageThreads:
    frames = bounded(_frames(each.frames), most_bytes=most_bytes)
    return PageThreads(tuple(each.tids[:SHOWN_IDS]), len(each.tids), crashed, frames.rows, frames.left_out, each.ended)


def _frames(frames: tuple[TraceFrame, ...]) -> Iterator[PageFrame]:
    number = 0
    for frame, repeated in groupby(frames):
        times = sum(1 for _ in repeated)
        yield PageFrame(number, times, frame)
        number += times
