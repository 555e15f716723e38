"""The image of a crashed process: what its core says, and the memory behind it, without a debugger."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from collector.collectors.core.auxv import parse_auxv
from collector.collectors.core.notes import CoreSignal, parse_signal
from collector.collectors.core.thread_state import ThreadState, thread_states
from collector.host.core_memory import CoreMemory
from collector.host.core_segments import SegmentTable
from collector.host.core_stream import DumpHead
from collector.host.elf_notes import raw_notes
from collector.host.elfcore import NT_AUXV, NT_FILE, NT_SIGINFO, Layout
from collector.host.mapped_files import MappedFileTable


@dataclass(frozen=True, kw_only=True)
class CoreImage:
    """
    Everything that can be asked of a core; nothing in it is trusted, and what is read is bounded by whoever reads.

    Args:
        head: The core's headers and notes, as far as they were read.
        memory: Its memory.
    """

    head: DumpHead
    memory: CoreMemory

    @property
    def layout(self) -> Layout:
        return self.head.layout

    @cached_property
    def segments(self) -> SegmentTable:
        return self.head.segments()

    @cached_property
    def threads(self) -> tuple[ThreadState, ...]:
        """The threads, the crashed one first; empty for a machine whose registers are not known."""
        return tuple(thread_states(self.layout, self.head.notes))

    @cached_property
    def signal(self) -> CoreSignal | None:
        desc = self._note(NT_SIGINFO)
        return None if desc is None else parse_signal(self.layout, bytes(desc))

    @cached_property
    def auxv(self) -> dict[int, int]:
        """The auxiliary vector, by type."""
        desc = self._note(NT_AUXV)
        return {} if desc is None else parse_auxv(self.layout, desc)

    @cached_property
    def files(self) -> MappedFileTable:
        """The mapped files, by address."""
        desc = self._note(NT_FILE)
        return MappedFileTable(self.layout) if desc is None else MappedFileTable(self.layout, desc)

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """Return as many of *count* words at *address* as are there."""
        raw = self.memory.read(address, count * self.layout.word)
        return self.layout.unpack(f"{len(raw) // self.layout.word}W", raw)

    def _note(self, kind: int) -> memoryview | None:
        found = (note for note in raw_notes(self.layout, self.head.notes) if note.name == b"CORE")
        return next((note.desc for note in found if note.type == kind), None)
