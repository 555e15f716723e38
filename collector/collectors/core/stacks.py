"""The threads' stacks, and what a debugger needs beside them: a core of a few hundred KiB that gives backtraces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from collector.collectors.core.auxv import AT_EXECFN, parse_auxv
from collector.collectors.core.modules import save_modules
from collector.collectors.core.saved_pages import SavedPages
from collector.collectors.core.thread_state import ThreadState, thread_states
from collector.host.core_segments import PF_R, PF_X, Segment
from collector.host.core_stream import DumpHead
from collector.host.elf_notes import raw_notes
from collector.host.elfcore import NT_AUXV, NT_FILE, MappedFile
from collector.host.mapped_files import MappedFileTable
from collector.host.memory import PAGE_BYTES, page

PAGES_BYTES = 8 << 20
"""Most memory in all. Measured: 20 threads of a C program take 0.2 MiB, 20 of Python 0.9."""

CRASHED_STACK_BYTES = 1 << 20
STACK_BYTES = 256 << 10
"""Most of one thread's stack, from its top: a recursion without end fills 8 MiB."""

LEAST_STACK_BYTES = 8 << 10
RED_ZONE_BYTES = 128  # below the stack pointer; System V ABI for x86-64, 3.2.2
GUARD_BYTES = 1 << 20
"""How far a stack pointer may have run over: the kernel's own gap (``stack_guard_gap``)."""

THREAD_BLOCK_BYTES = 4096
"""glibc's ``struct pthread`` takes 2304 bytes; from the thread pointer up on x86, down on others."""

SCANNED_BYTES = 64 << 10


@dataclass(slots=True, kw_only=True)
class StackLosses:
    """What is missing: threads whose stack was cut or is not there, links of the library list, pages without room."""

    cut: int = 0
    unreadable: int = 0
    links: int = 0
    pages: int = 0
    unknown_machine: str = ""

    def __str__(self) -> str:
        """Return it in words, empty if nothing is missing."""
        found = (
            (self.unknown_machine, f"the registers of {self.unknown_machine} are not known, so there are no stacks"),
            (self.cut, f"stacks that are cut: {self.cut}"),
            (self.unreadable, f"stacks that cannot be read: {self.unreadable}"),
            (self.links, "the list of libraries ends early"),
            (self.pages, f"pages left out beyond the limit: {self.pages}"),
        )
        return "; ".join(text for missing, text in found if missing)


def save_stacks(saved: SavedPages, head: DumpHead) -> StackLosses:
    """
    Save the stacks of all threads and the way to their libraries; the crashed thread comes first.

    Each of the others first gets an equal share of the room, then more if there is some left.
    """
    losses = StackLosses()
    layout = head.layout
    auxv, files = _facts(head)
    states = list(thread_states(layout, head.notes))
    crashed, others = states[:1], states[1:]
    if not crashed:
        losses.unknown_machine = layout.machine
    for state in crashed:
        save_thread(saved, state, CRASHED_STACK_BYTES, auxv, losses)
    losses.links = save_modules(saved, auxv, files)
    share = saved.room_bytes // max(1, len(others)) - THREAD_BLOCK_BYTES
    _save_threads(saved, others, min(max(share, LEAST_STACK_BYTES), STACK_BYTES), auxv, losses)
    losses.pages = saved.left_out
    return losses


def _facts(head: DumpHead) -> tuple[dict[int, int], Iterable[MappedFile]]:
    """Return the auxiliary vector and the mapped files."""
    auxv: dict[int, int] = {}
    files: Iterable[MappedFile] = ()
    for note in raw_notes(head.layout, head.notes):
        if note.name == b"CORE" and note.type == NT_AUXV:
            auxv = parse_auxv(head.layout, note.desc)
        elif note.name == b"CORE" and note.type == NT_FILE:
            files = MappedFileTable(head.layout, note.desc)
    return auxv, files


def _save_threads(
    saved: SavedPages, states: Sequence[ThreadState], share: int, auxv: dict[int, int], losses: StackLosses
) -> None:
    first = StackLosses()
    for state in states:
        save_thread(saved, state, share, auxv, first)
    if first.cut and share < STACK_BYTES:
        left_out, saved.left_out = saved.left_out, 0
        first = StackLosses()
        for state in states:
            save_thread(saved, state, STACK_BYTES, auxv, first)
        saved.left_out = max(left_out, saved.left_out)
    losses.cut += first.cut
    losses.unreadable += first.unreadable


def save_thread(saved: SavedPages, state: ThreadState, limit: int, auxv: dict[int, int], losses: StackLosses) -> None:
    """Save a thread's stack, at most *limit* bytes of it, its thread block, and code that is in no file."""
    segment = _stack_of(saved, state.sp)
    if segment is None:
        losses.unreadable += 1
    else:
        _save_stack(saved, state, segment, limit, losses)
        _save_other_stack(saved, state, segment, limit, auxv)
    if state.tls:
        saved.take(max(0, state.tls - THREAD_BLOCK_BYTES), state.tls + THREAD_BLOCK_BYTES)
    code = saved.segments.find(state.pc)
    if code is not None and code.flags & PF_X and code.file_bytes == code.memory_bytes:
        saved.take(max(0, state.pc - RED_ZONE_BYTES), state.pc + RED_ZONE_BYTES)


def _stack_of(saved: SavedPages, sp: int) -> Segment | None:
    """Return the mapping that a stack pointer is in, or has just run out of."""
    segment = saved.segments.find(sp)
    if segment is None or not segment.flags & PF_R:
        segment = saved.segments.after(sp)
        if segment is None or segment.start - sp > GUARD_BYTES:
            return None
    return segment if segment.file_bytes else None


def _save_stack(saved: SavedPages, state: ThreadState, segment: Segment, limit: int, losses: StackLosses) -> None:
    """Save a stack up to the end of its mapping, or up to the thread block, which glibc puts on top of it."""
    start = max(segment.start, state.sp - RED_ZONE_BYTES)
    end = segment.end
    if start < state.tls < end:
        end = min(end, page(state.tls + THREAD_BLOCK_BYTES) + PAGE_BYTES)
    losses.cut += end - start > limit
    saved.take(start, min(end, start + limit))


def _save_other_stack(
    saved: SavedPages, state: ThreadState, segment: Segment, limit: int, auxv: dict[int, int]
) -> None:
    """
    Save the thread's own stack if it is on another, as in a handler of a signal (sigaltstack(2)).

    The frames there lead to it: it is saved from the lowest address of it that they hold.
    """
    homes = [saved.segments.find(address) for address in (state.tls, auxv.get(AT_EXECFN, 0))]
    if segment in homes:
        return
    words = saved.words(page(state.sp), min(SCANNED_BYTES, segment.end - page(state.sp)) // saved.layout.word)
    for home in homes:
        if home is not None and home.file_bytes:
            low = min((word for word in words if home.start <= word < home.end), default=None)
            if low is not None:
                saved.take(max(home.start, low - RED_ZONE_BYTES), min(home.end, low + limit))
