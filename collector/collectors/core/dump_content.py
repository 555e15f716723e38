"""What is taken of a core that the kernel sends: all of it, its present pages, its stacks, or its notes."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

from collector.collectors.base import Context
from collector.collectors.core.composed import Composition, Piece, nothing, pieces, whole_notes
from collector.collectors.core.present_pages import MAX_RUNS, MAX_SCANNED_BYTES, PresentPages
from collector.collectors.core.saved_pages import SavedPages
from collector.collectors.core.stacks import PAGES_BYTES, save_stacks
from collector.copying.schedule import SPARE_S
from collector.host.core_stream import HEAD_BYTES, DumpHead
from collector.host.held_process import HeldProcess
from collector.host.process_memory import ProcessMemory
from collector.host.procfs import Process
from collector.model.artifact import Body, Incoming, Instead, Truncated
from collector.model.errors import StepError
from collector.model.units import Bytes

HURRY_BYTES = 2 << 20
"""
What stacks may take in a hurry: they are read into the 3 MiB for light evidence, of which others need a part. Half of
it is for the notes.
"""

MEMORY_PAGES_BYTES, MEMORY_NOTES_BYTES = 2 << 20, 512 << 10
"""
Likewise what they may take of it without hurry: a core that is cut within its notes is none to a debugger, and the
stack of the first thread is at its very end.
"""


class CoreContent(enum.StrEnum):
    """What is taken of a core that the kernel sends."""

    FULL = "full"
    STACKS = "stacks"
    NOTES = "notes"


class CoreCompression(enum.StrEnum):
    """How a core that the kernel sends is compressed."""

    NONE = "none"
    ZSTD = "zstd"


class DumpKeys(NamedTuple):
    """The keys of `Core` that apply to a core that the kernel sends."""

    content: CoreContent
    max_bytes: Bytes | None
    compress: CoreCompression


class Taken(NamedTuple):
    """What ``core`` holds, its *body*, and why that is less than was asked for."""

    content: str
    body: Body
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpTaker:
    """
    Takes what was asked for, or as much of it as fits into the time.

    Args:
        keys: What was asked for.
        ctx: Of the step.
        held: The process.
        head: What was read of its dump.
        stack: Closes what is read from while the artifact is written.
    """

    keys: DumpKeys
    ctx: Context
    held: HeldProcess
    head: DumpHead
    stack: ExitStack

    def take(self) -> Taken:
        if self.keys.content is CoreContent.NOTES:
            return Taken(*self._notes())
        if self.keys.content is CoreContent.STACKS:
            return Taken(*self._stacks())
        if self.held.hurry:
            return Taken(*self._stacks(f"taken as `stacks`, in a hurry: {self.held.hurry}"))
        return Taken("full", self._incoming())

    def _incoming(self) -> Incoming:
        return Incoming(
            fd=self.held.stream_fd,
            head=self.head.data,
            size_bytes=self.head.header.end_bytes,
            limit_bytes=self.keys.max_bytes,
            compress=self.keys.compress is CoreCompression.ZSTD,
            deadline_s=self._deadline_s,
            instead=self._instead,
        )

    @property
    def _deadline_s(self) -> float:
        return min(self.held.deadline_s, self.ctx.deadline_s)

    def _instead(self, reason: str, rate: float | None) -> Instead:
        """Return the pages that are there, if a core came too slowly and they fit into the time; else the stacks."""
        room = int((rate or 0.0) * max(0.0, self._deadline_s - time.monotonic() - SPARE_S))
        if rate is not None and (present := self._present(room)) is not None:
            return Instead(present, f"taken as its present pages: {reason}")
        _, core, why = self._stacks(f"taken as `stacks`: {reason}")
        return Instead(core, why)

    def _present(self, room: int) -> Iterator[Piece] | None:
        """Return the core of the pages that are there, read while it is written; ``None`` if that is too much, too."""
        segments = self.head.segments()
        dumped_bytes = sum(segment.file_bytes for segment in segments)
        if self.head.notes_cut or len(segments) > MAX_RUNS or dumped_bytes > MAX_SCANNED_BYTES:
            return None
        try:
            memory = self.stack.enter_context(self._memory(self.stack))
        except (OSError, StepError):
            return None
        found = PresentPages(memory, segments)
        if found.size_bytes > room:
            return None
        core = Composition(self.head, found.runs, found.content, len(self.head.notes))
        return self._limited(self._while_held(pieces(core)))

    def _while_held(self, core: Iterator[Piece]) -> Iterator[Piece]:
        """Yield *core*, which is read from the process, for as long as that may be held."""
        for piece in core:
            if time.monotonic() >= self.held.deadline_s:
                raise Truncated("the process could not be held any longer")
            yield piece

    def _limited(self, core: Iterator[Piece]) -> Iterator[Piece]:
        """Yield *core* up to `max_bytes`."""
        left: int | None = self.keys.max_bytes
        for piece in core:
            if left is not None and len(piece) > left:
                yield piece[:left]
                raise Truncated(f"only the first {self.keys.max_bytes} bytes were kept: `max_bytes`")
            yield piece
            left = None if left is None else left - len(piece)

    def _notes(self, reason: str = "") -> tuple[str, Iterator[Piece], str]:
        size = self._note_bytes()
        core = Composition(self.head, nothing, nothing, size, whole=self._all_segments())
        return "notes", self._limited(pieces(core)), _reasons(reason, self._notes_lost(size))

    def _stacks(self, reason: str = "") -> tuple[str, Iterator[Piece], str]:
        try:
            core, lost = self._save_stacks()
        except (OSError, StepError) as exc:
            return self._notes(_reasons(reason, f"its memory cannot be read: {exc}"))
        return "stacks", core, _reasons(reason, lost)

    def _save_stacks(self) -> tuple[Iterator[Piece], str]:
        """Return a core that is in memory, and what is missing."""
        size = self._note_bytes()
        limit = min(PAGES_BYTES, self.keys.max_bytes or PAGES_BYTES)
        if self.held.hurry:
            limit = min(limit, HURRY_BYTES // 2)
        elif self.ctx.in_memory:
            limit = min(limit, MEMORY_PAGES_BYTES)
        segments = self.head.segments()
        with ExitStack() as stack, self._memory(stack) as memory:
            saved = SavedPages(memory, segments, self.head.layout, limit_bytes=limit)
            losses = save_stacks(saved, self.head)
            unreadable = memory.unreadable_bytes
        core = Composition(self.head, saved.runs, saved.content, size, whole=self._all_segments())
        unread = f"{unreadable} bytes could not be read" if unreadable else ""
        return self._limited(pieces(core)), _reasons(str(losses), unread, self._notes_lost(size))

    def _memory(self, stack: ExitStack) -> ProcessMemory:
        process = Process(self.ctx.host, self.held.process.pid, self.held.process.start_time_ticks)
        return ProcessMemory(stack.enter_context(process))

    def _note_bytes(self) -> int:
        if self.held.hurry:
            return whole_notes(self.head, HURRY_BYTES // 2)
        return whole_notes(self.head, MEMORY_NOTES_BYTES if self.ctx.in_memory else HEAD_BYTES)

    def _notes_lost(self, size: int) -> str:
        return "the notes of some threads were left out" if size < self.head.header.note_bytes else ""

    def _all_segments(self) -> bool:
        """Return whether there is room for the segments of which nothing is taken."""
        return not (self.held.hurry or self.ctx.in_memory) or self.head.header.note_offset <= HURRY_BYTES // 8


def _reasons(*reasons: str) -> str:
    return "; ".join(filter(None, reasons))
