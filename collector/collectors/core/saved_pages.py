"""The pages of a process that are saved: whatever was looked at, and no more than a limit."""

from __future__ import annotations

from collections.abc import Iterator

from collector.host.core_segments import PF_W, SegmentTable
from collector.host.elfcore import Layout
from collector.host.memory import PAGE_BYTES, page
from collector.host.process_memory import ProcessMemory


class SavedPages:
    """
    Reads a process's memory and keeps each page that it reads.

    Memory that the kernel leaves out of its dump (coredump_filter, MADV_DONTDUMP) is not taken either, except for what
    cannot be written to: programs and libraries. *left_out* counts the pages for which there was no room.

    Args:
        memory: Of the process.
        segments: Its mappings, as the kernel would dump them.
        layout: Of its core.
        limit_bytes: Most memory to keep.
    """

    def __init__(self, memory: ProcessMemory, segments: SegmentTable, layout: Layout, *, limit_bytes: int) -> None:
        self.segments = segments
        self.layout = layout
        self.left_out = 0
        self._memory = memory
        self._pages: dict[int, bytes] = {}
        self._limit = limit_bytes // PAGE_BYTES

    @property
    def room_bytes(self) -> int:
        """What may still be kept."""
        return (self._limit - len(self._pages)) * PAGE_BYTES

    def take(self, start: int, end: int) -> None:
        """Keep the pages from *start* to *end*, a bounded range, as far as they are there."""
        at, stop = page(start), page(end + PAGE_BYTES - 1)
        while at < stop:
            segment = self.segments.find(at)
            if segment is None:
                following = self.segments.after(at)
                if following is None:
                    return
                at = following.start
                continue
            low, at = at, min(stop, segment.end)
            if segment.file_bytes or not segment.flags & PF_W:
                for one in self._memory.present(low, at):
                    self._keep(*one)

    def take_vdso(self) -> None:
        """Keep the kernel's own library, whose frames gdb finds nowhere else."""
        start, data = self._memory.vdso() or (0, b"")
        for at in range(0, len(data), PAGE_BYTES):
            self._pages[start + at] = bytes(data[at : at + PAGE_BYTES])

    def _keep(self, low: int, high: int) -> None:
        new = [address for address in range(low, high, PAGE_BYTES) if address not in self._pages]
        room = self._limit - len(self._pages)
        self.left_out += max(0, len(new) - room)
        for address in new[:room]:
            self._pages[address] = bytes(self._memory.read(address, address + PAGE_BYTES))

    def read(self, address: int, size: int) -> bytes:
        """Return what can be read of *size* bytes, and keep their pages; it ends at the first page that is missing."""
        self.take(address, address + size)
        parts, at = [], address
        while at < address + size and (found := self._pages.get(page(at))) is not None:
            parts.append(found[at - page(at) : at - page(at) + address + size - at])
            at += len(parts[-1])
        return b"".join(parts)

    def words(self, address: int, count: int) -> tuple[int, ...]:
        """Return as many of *count* words of the process as can be read."""
        raw = self.read(address, count * self.layout.word)
        return self.layout.unpack(f"{len(raw) // self.layout.word}W", raw)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield what was kept, by address."""
        low = high = -1
        for address in sorted(self._pages):
            if address != high:
                if low >= 0:
                    yield low, high
                low = address
            high = address + PAGE_BYTES
        if low >= 0:
            yield low, high

    def content(self, low: int, high: int) -> Iterator[bytes]:
        """Yield the pages of a run."""
        return (self._pages[address] for address in range(low, high, PAGE_BYTES))
