"""The facts that a diagnosis rests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from collector.collectors.core.image import CoreImage
from collector.collectors.core.notes import CoreSignal, CoreThread
from collector.collectors.core.thread_state import ThreadState
from collector.host.core_segments import PF_R, PF_W, PF_X, Segment
from collector.host.elfcore import MappedFile
from collector.model.text import escape

MAX_PATH_SHOWN = 256
CLOCK_STEP_NS = 20_000_000
"""The times of files are as fine as the kernel's tick, of at most 10 ms; and the notice of a crash takes a few more."""


class MappedFileState(NamedTuple):
    """
    A mapped file as it is soon after the crash.

    *free_bytes* is what its file system has left for ordinary users; ``None`` if it has no limit. *changed_ns* is when
    it was last changed, with the crash as 0; ``None`` if it is not known when that was.
    """

    size_bytes: int
    file_system: str
    free_bytes: int | None
    changed_ns: int | None = None


@dataclass(frozen=True, kw_only=True)
class CrashFacts:
    """
    What is known of a crash.

    Args:
        image: The core.
        signal: What the process died of.
        pid: The process, in its own namespace, as the sender of a signal is.
        thread: The crashed thread.
        state: Where that thread was; ``None`` for a machine whose registers are not known.
        file_state: Returns the state of a mapped file at the crash, ``None`` if it cannot be known.
        handlers: The stack pointers with which the handlers return that the crashed thread is in.
        access: What a fault was, as far as that is known: an access, or whether it was a read or a write.
    """

    image: CoreImage
    signal: CoreSignal
    pid: int | None
    thread: CoreThread | None
    state: ThreadState | None
    file_state: Callable[[MappedFile], MappedFileState | None]
    handlers: frozenset[int] = frozenset()
    access: str = "access"

    @property
    def address(self) -> int | None:
        """The address that the kernel names as the fault's."""
        text = self.signal.fault_address
        return None if text is None else int(text, 16)

    @property
    def is_x86(self) -> bool:
        return self.image.layout.machine in {"x86_64", "i386"}

    def register(self, name: str) -> int | None:
        """Return a register of the crashed thread by its name; ``None`` where it has none."""
        text = None if self.thread is None else self.thread.registers.get(name)
        return None if text is None else int(text, 16)

    def file(self, address: int) -> MappedFile | None:
        """Return the file mapped at *address*."""
        return self.image.files.find(address)

    def place(self, address: int) -> str:
        """Return an address as offset from where its file begins in memory, else as it is."""
        first = self.image.files.first_of(address)
        return f"{address:#x}" if first is None else f"{shown(first.path)}+{address - first.start:#x}"

    @property
    def by(self) -> str:
        """Where the crashed thread was, as the end of a sentence; which one, if it is not the first."""
        where = "" if self.state is None else f", by the code at {self.place(self.state.pc)}"
        return where + self.in_thread

    @property
    def in_thread(self) -> str:
        other = self.thread is not None and self.pid is not None and self.thread.tid != self.pid
        return f" in thread {self.thread.tid}" if other and self.thread else ""


def shown(path: bytes) -> str:
    """Return a path as it is shown: escaped, of a long one the end."""
    return escape(path if len(path) <= MAX_PATH_SHOWN else b"..." + path[-MAX_PATH_SHOWN:])


def allows(segment: Segment, access: int) -> bool:
    return bool(segment.flags & access)


def is_accessible(segment: Segment) -> bool:
    return allows(segment, PF_R | PF_W | PF_X)
