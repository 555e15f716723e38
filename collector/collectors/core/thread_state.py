"""Where the threads of a core are: program counter, stack pointer, thread pointer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from collector.collectors.core.notes import WIDE_REGISTERS, registers_at
from collector.host.elf_notes import raw_notes
from collector.host.elfcore import NT_PRSTATUS, Layout

NT_386_TLS, NT_ARM_TLS = 0x200, 0x401
# Index of the program counter, the stack pointer and, where it is one of them, the thread pointer among the registers.
# Source: arch/*/include/uapi/asm/ptrace.h (Linux 6.18).
POSITIONS: dict[str, tuple[int, int, int | None]] = {
    "x86_64": (16, 19, 21),
    "i386": (12, 15, None),
    "aarch64": (32, 31, None),
    "arm": (15, 13, None),
    "riscv": (0, 2, 4),
    "loongarch": (33, 3, 2),
    "ppc64": (32, 1, 13),
    "ppc": (32, 1, 2),
    "s390": (1, 17, None),
}


class ThreadState(NamedTuple):
    """The addresses that a thread's registers hold; *tls* is 0 if it is not known."""

    pc: int
    sp: int
    tls: int


def thread_states(layout: Layout, notes: memoryview) -> Iterator[ThreadState]:
    """Yield the threads, the crashed one first; none for a machine whose registers are not known."""
    if layout.machine not in POSITIONS:
        return
    state: ThreadState | None = None
    for note in raw_notes(layout, notes):
        if note.type == NT_PRSTATUS and note.name == b"CORE":
            if state is not None:
                yield state
            state = _registers(layout, note.desc)
        elif state is not None and note.name == b"LINUX" and not state.tls:
            state = state._replace(tls=_thread_pointer(layout, note.type, note.desc))
    if state is not None:
        yield state


def _registers(layout: Layout, desc: memoryview) -> ThreadState | None:
    pc, sp, tls = POSITIONS[layout.machine]
    size, form = (8, "Q") if layout.machine in WIDE_REGISTERS else (layout.word, "W")
    at = registers_at(layout)
    if at + (max(pc, sp, tls or 0) + 1) * size > len(desc):
        return None

    def register(index: int) -> int:
        return layout.unpack(form, desc, at + index * size)[0]

    return ThreadState(register(pc), register(sp), 0 if tls is None else register(tls))


def _thread_pointer(layout: Layout, kind: int, desc: memoryview) -> int:
    if kind == NT_ARM_TLS and len(desc) >= 8:
        return layout.unpack("Q", desc)[0]
    if kind == NT_386_TLS and len(desc) >= 16:  # struct user_desc: entry, base, limit, flags; the C library's is first
        return layout.unpack("II", desc)[1]
    return 0
