"""Synthetic core files of other architectures, laid out as their kernels write them."""

from __future__ import annotations

import os
import struct

from collector.host.corefile import core_reader
from collector.host.elfcore import CoreHeader, Note, notes

NT_PRSTATUS, NT_PRPSINFO, NT_FPREGSET = 1, 3, 2
NT_FILE, NT_SIGINFO = 0x46494C45, 0x53494749
X86_64, I386, AARCH64, ARM, PPC64, M68K, MIPS = 62, 3, 183, 40, 21, 4, 8
S390, RISCV, SPARC, SPARC64, ALPHA, PARISC, PPC, LOONGARCH, SH = 22, 243, 2, 43, 0x9026, 15, 20, 258, 42
SHORT_IDS = frozenset({X86_64, I386, ARM, AARCH64, M68K, S390, SPARC, SPARC64, SH})
"""Whose 32-bit processes have user ids of 16 bits in their ``elf_prpsinfo``."""


def note(kind: int, desc: bytes, *, order: str = "<", name: bytes = b"CORE\0") -> bytes:
    """Return one note, padded."""
    return struct.pack(order + "III", len(name), len(desc), kind) + pad(name) + pad(desc)


def pad(data: bytes) -> bytes:
    """Pad to a multiple of four."""
    return data + bytes(-len(data) % 4)


def prstatus(
    tid: int, signal: int, registers: tuple[int, ...], *, machine: int = X86_64, word: int = 8, order: str = "<"
) -> bytes:
    """Return ``struct elf_prstatus``; x32 has registers of 64 bits, m68k aligns to two bytes."""
    w = "Q" if word == 8 else "I"
    r = "Q" if machine == X86_64 else w
    padding = b"" if machine == M68K else bytes(2)
    head = struct.pack(order + "iii h", signal, 0, 0, signal) + padding + struct.pack(order + 2 * w, 1, 2)
    ids = struct.pack(order + "iiii", tid, 1, 1, 1)
    times = struct.pack(order + 8 * w, 3, 500_000, 1, 250_000, 0, 0, 0, 0)
    return head + ids + times + struct.pack(order + r * len(registers), *registers) + struct.pack(order + w, 1)


def prpsinfo(
    pid: int, command: bytes, arguments: bytes, *, machine: int = X86_64, word: int = 8, order: str = "<"
) -> bytes:
    """Return ``struct elf_prpsinfo``."""
    ids = "HH" if word == 4 and machine in SHORT_IDS else "II"
    flags = "4xQ" if word == 8 else "I"
    head = struct.pack(order + "4s" + flags + ids + "iiii", b"\0R\0\x05", 0, 1000, 1001, pid, 1, 1, 1)
    return head + command.ljust(16, b"\0") + arguments.ljust(80, b"\0")


def siginfo(signal: int, code: int, value: int, *, machine: int = X86_64, word: int = 8, order: str = "<") -> bytes:
    """Return ``siginfo_t`` of a fault at an address; MIPS has its code before its errno."""
    fields = (signal, code, 0) if machine == MIPS else (signal, 0, code)
    head = struct.pack(order + "iii", *fields) + (bytes(4) if word == 8 else b"")
    return (head + struct.pack(order + ("Q" if word == 8 else "I"), value)).ljust(128, b"\0")


def nt_file(files: list[tuple[int, int, int, bytes]], *, word: int = 8, order: str = "<") -> bytes:
    """Return NT_FILE: start, end, offset in pages, path of each mapping."""
    w = "Q" if word == 8 else "I"
    entries = b"".join(struct.pack(order + 3 * w, *file[:3]) for file in files)
    return struct.pack(order + 2 * w, len(files), 4096) + entries + b"".join(file[3] + b"\0" for file in files)


def core(
    notes: bytes, *, machine: int = X86_64, word: int = 8, order: str = "<", kind: int = 4, loads: int = 1
) -> bytes:
    """Return a core: header, segment table, notes, and one page per PT_LOAD."""
    header_bytes, entry = (64, 56) if word == 8 else (52, 32)
    w = "Q" if word == 8 else "I"
    ident = b"\x7fELF" + bytes([2 if word == 8 else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    count = 1 + loads
    header = ident + struct.pack(
        order + "HHI" + 3 * w + "IHHHHHH", kind, machine, 1, 0, header_bytes, 0, 0, header_bytes, entry, count, 0, 0, 0
    )
    at = header_bytes + count * entry
    table = _segment(4, at, len(notes), 0, word, order)
    for index in range(loads):
        table += _segment(1, at + len(notes) + index * 4096, 4096, 8192, word, order)
    return header + table + notes + bytes(4096 * loads)


def _segment(kind: int, offset: int, size: int, memory: int, word: int, order: str) -> bytes:
    if word == 8:
        return struct.pack(order + "IIQQQQQQ", kind, 4, offset, 0, 0, size, memory, 4)
    return struct.pack(order + "IIIIIIII", kind, offset, 0, 0, size, memory, 4, 4)


def crash(*, machine: int = X86_64, word: int = 8, order: str = "<", registers: int = 27) -> bytes:
    """Return the notes of a process with two threads that died of SIGSEGV."""
    values = tuple(range(100, 100 + registers))
    files = [(0x1000, 0x3000, 2, b"/dev/shm/engine.1"), (0x3000, 0x4000, 0, b"/dev/shm/gone (deleted)")]
    return b"".join(
        note(kind, desc, order=order)
        for kind, desc in (
            (NT_PRSTATUS, prstatus(42, 11, values, machine=machine, word=word, order=order)),
            (NT_PRPSINFO, prpsinfo(42, b"engine", b"engine --token abc", machine=machine, word=word, order=order)),
            (NT_SIGINFO, siginfo(11, 1, 0xDEAD, machine=machine, word=word, order=order)),
            (NT_FILE, nt_file(files, word=word, order=order)),
            (NT_FPREGSET, bytes(512)),
            (NT_PRSTATUS, prstatus(43, 11, values, machine=machine, word=word, order=order)),
        )
    )


def read_notes(fd: int, data: bytes) -> tuple[CoreHeader, list[Note]]:
    """Write *data* to the file *fd*, and read it as a core."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, data, 0)
    header, found = notes(core_reader(fd))
    return header, list(found)
