"""
The notes of an ELF core file, read in one forward pass.

64-bit and 32-bit cores of either byte order. Nothing in the file is trusted: every length is checked against what it
claims to describe, and against a limit.

Source: elf(5), core(5), include/linux/elfcore.h, fs/binfmt_elf.c (Linux 6.18).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from collector.model.errors import StepError
from collector.model.text import escape

PT_LOAD, PT_NOTE = 1, 4
ET_CORE = 4
ELF_TYPES = {1: "an object file", 2: "an executable", 3: "a library or an executable"}
PN_XNUM = 0xFFFF
NT_PRSTATUS, NT_PRPSINFO, NT_AUXV = 1, 3, 6
NT_FILE, NT_SIGINFO = 0x46494C45, 0x53494749
WANTED = frozenset({NT_PRSTATUS, NT_PRPSINFO, NT_AUXV, NT_FILE, NT_SIGINFO})

# vm.max_map_count is 65,530 by default; with more segments than that the kernel uses PN_XNUM.
MAX_SEGMENTS = 1 << 20
# A thread's notes take 3 to 14 KiB (AVX-512, AMX).
MAX_NOTES = 100_000
# The default of kernel.core_file_note_size_limit, which bounds NT_FILE, the only note that grows.
MAX_DESC_BYTES = 4 << 20
# For all notes: a sparse file can claim 100,000 of 4 MiB. The registers of 32,768 threads take 11 MiB.
MAX_KEPT_BYTES = 64 << 20

# PATH_MAX: the kernel writes no longer ones. Escaped, 4 MiB would become 20.
MAX_PATH_BYTES = 4096

# Source: include/uapi/linux/elf-em.h
MACHINES = {2: "sparc", 3: "i386", 4: "m68k", 8: "mips", 15: "parisc", 18: "sparc", 20: "ppc", 21: "ppc64", 22: "s390",
            40: "arm", 42: "sh", 43: "sparc", 50: "ia64", 62: "x86_64", 92: "openrisc", 94: "xtensa", 164: "hexagon",
            183: "aarch64", 189: "microblaze", 195: "arc", 243: "riscv", 252: "csky", 258: "loongarch",
            0x9026: "alpha"}  # fmt: skip


class CoreError(StepError):
    """The file is not an ELF core, or cannot be read."""


class CutOffError(CoreError):
    """The file ends within the headers of a core."""


class CoreReader(Protocol):
    """Reads a core forwards: a file or a decompressor."""

    def read(self, size: int) -> bytes:
        """Return *size* bytes, fewer only at the end."""
        ...

    def skip(self, size: int) -> None: ...

    def is_cut_off(self, end_bytes: int) -> bool:
        """Return whether the file ends before *end_bytes* of the core; called last."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Word size in bytes, byte order (as `struct` writes it) and machine of a core."""

    word: int
    order: str
    machine: str

    def unpack(self, form: str, raw: bytes | bytearray | memoryview, offset: int = 0) -> tuple[int, ...]:
        """Unpack *form*, a `struct` format in which ``W`` stands for an unsigned word of the core's size."""
        word = "Q" if self.word == 8 else "I"
        return struct.unpack_from(self.order + form.replace("W", word), raw, offset)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreHeader:
    """What the ELF header and the segment table say; a file shorter than *end_bytes* was cut off."""

    layout: Layout
    note_offset: int
    note_bytes: int
    segments: int
    memory_bytes: int
    end_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One note; *desc* holds at most `MAX_DESC_BYTES` of the *size_bytes* that the note claims."""

    type: int
    size_bytes: int
    desc: bytes


class MappedFile(NamedTuple):
    """
    One mapping of a file; *offset* into the file in bytes.

    *device* and *inode* are known from ``/proc/PID/maps`` only, not from NT_FILE.
    """

    start: int
    end: int
    offset: int
    path: bytes
    device: int | None = None
    inode: int | None = None

    @property
    def addresses(self) -> str:
        """The mapping's name in ``/proc/PID/map_files``, which has no leading zeros."""
        return f"{self.start:x}-{self.end:x}"


def read_header(reader: CoreReader, *, segments: int = MAX_SEGMENTS) -> tuple[CoreHeader, int]:
    """
    Read the ELF header and at most *segments* segments of a core; the kernel puts the notes first.

    Returns:
        The header, and the number of bytes consumed.

    Raises:
        CoreError: If it is not a core, or its segment table does not follow its header.
    """
    ident = reader.read(16)
    if len(ident) < 16 or ident[:4] != b"\x7fELF":
        if ident.startswith(b"ProblemType:"):
            raise CoreError("not an ELF file, but an Apport report that is not about a process")
        met = f'it begins with "{escape(ident)}"' if ident else "it is empty"
        raise CoreError(f"not an ELF file: {met}")
    if ident[4] not in {1, 2} or ident[5] not in {1, 2}:
        raise CoreError("an ELF file of unknown class or byte order")
    word = 8 if ident[4] == 2 else 4
    order = "<" if ident[5] == 1 else ">"
    size = header_bytes(word)
    rest = reader.read(size - 16)
    if len(rest) < size - 16:
        raise CutOffError("cut off within its ELF header")
    kind, machine, _version = struct.unpack_from(order + "HHI", rest)
    if kind != ET_CORE:
        raise CoreError(f"an ELF file, but not a core: {ELF_TYPES.get(kind, f'of type {kind}')}")
    layout = Layout(word=word, order=order, machine=MACHINES.get(machine, str(machine)))
    _entry, phoff, _shoff = layout.unpack("WWW", rest, 8)
    _flags, _ehsize, phentsize, phnum, *_ = layout.unpack("IHHHHHH", rest, 8 + 3 * word)
    if phentsize != entry_bytes(layout) or phoff < size or phoff > 1 << 20:
        raise CoreError("its segment table is not where a core has it")
    reader.skip(phoff - size)
    limit = min(phnum, segments) if phnum != PN_XNUM else segments
    return _read_segments(reader, layout, phoff, limit, phentsize)


def _read_segments(reader: CoreReader, layout: Layout, offset: int, limit: int, entry: int) -> tuple[CoreHeader, int]:
    """
    Read the segment table, entry by entry.

    With more than 65,534 segments the count is in a section header at the end of the file, out of reach of a forward
    reader; the table is then read up to the first segment's data.
    """
    note: tuple[int, int] | None = None
    end = memory = seen = 0
    first = None
    while seen < limit and (first is None or offset + (seen + 1) * entry <= first):
        raw = reader.read(entry)
        if len(raw) < entry:
            raise CutOffError("cut off within its segment table")
        seen += 1
        kind, _, start, _, size, size_memory = program_header(layout, raw)
        if kind == PT_NOTE and note is None:
            note = (start, size)
        if kind in {PT_LOAD, PT_NOTE} and size:
            first = start if first is None else min(first, start)
            end = max(end, start + size)
        memory += size_memory if kind == PT_LOAD else 0
    if note is None:
        raise CoreError("has no notes")
    header = CoreHeader(
        layout=layout, note_offset=note[0], note_bytes=note[1], segments=seen, memory_bytes=memory, end_bytes=end
    )
    return header, offset + seen * entry


class ProgramHeader(NamedTuple):
    """An entry of a segment table. Source: elf(5), ``Elf64_Phdr``, ``Elf32_Phdr``."""

    kind: int
    flags: int
    offset: int
    address: int
    file_bytes: int
    memory_bytes: int


def program_header(layout: Layout, raw: bytes | memoryview, at: int = 0) -> ProgramHeader:
    """Parse the entry at *at*."""
    if layout.word == 8:
        kind, flags, offset, address, _, size, memory, _ = layout.unpack("IIQQQQQQ", raw, at)
    else:
        kind, offset, address, _, size, memory, flags, _ = layout.unpack("IIIIIIII", raw, at)
    return ProgramHeader(kind, flags, offset, address, size, memory)


def entry_bytes(layout: Layout) -> int:
    """Return the length of an entry of the segment table."""
    return 56 if layout.word == 8 else 32


def header_bytes(word: int) -> int:
    """Return the length of the ELF header, by the word size in bytes."""
    return 64 if word == 8 else 52


def notes(reader: CoreReader, *, segments: int = MAX_SEGMENTS) -> tuple[CoreHeader, Iterator[Note]]:
    """
    Return a core's header, from at most *segments* segments, and its `WANTED` notes, in file order.

    Raises:
        CoreError: If the header is invalid. Notes that are cut off just end.
    """
    header, position = read_header(reader, segments=segments)
    if header.note_offset < position:
        raise CoreError("its notes overlap its headers")
    return header, _notes(reader, header, header.note_offset - position)


def _notes(reader: CoreReader, header: CoreHeader, gap: int) -> Iterator[Note]:
    reader.skip(gap)
    left, room = header.note_bytes, MAX_KEPT_BYTES
    for _ in range(MAX_NOTES):
        head = reader.read(12)
        if left < 12 or len(head) < 12:
            return
        name_bytes, desc_bytes, kind = header.layout.unpack("III", head)
        name_padded, desc_padded = padded(name_bytes), padded(desc_bytes)
        left -= 12 + name_padded + desc_padded
        if left < 0 or name_bytes > 256:
            return
        name = reader.read(name_padded)[:name_bytes].rstrip(b"\0")
        kept = min(desc_bytes, MAX_DESC_BYTES) if kind in WANTED and name == b"CORE" else 0
        room -= kept
        if room < 0 or len(desc := reader.read(kept)) < kept:
            return
        reader.skip(desc_padded - kept)
        if kept:
            yield Note(type=kind, size_bytes=desc_bytes, desc=desc)


def padded(size: int) -> int:
    """Round up to a multiple of 4, to which names and descriptions are padded in 64-bit cores too."""
    return (size + 3) & ~3
