"""Made-up facts of a crash, for what cannot be brought about on a test machine."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable

import fake_core
from fake_core import AARCH64, I386, X86_64

from collector.collectors.core.auxv import AT_EXECFN
from collector.collectors.core.diagnosis_facts import CrashFacts, MappedFileState
from collector.collectors.core.image import CoreImage
from collector.collectors.core.notes import parse_thread
from collector.host.core_segments import Segment, core_head
from collector.host.core_stream import DumpHead
from collector.host.corehead import HeadReader
from collector.host.elfcore import NT_AUXV, NT_PRSTATUS, Layout, MappedFile, notes, read_header

PID, TID = 4_000_077, 4_000_078
NAMES = {X86_64: "x86_64", I386: "i386", AARCH64: "aarch64"}
# Number of registers, and where pc and sp are among them.
REGISTERS = {X86_64: (27, 16, 19), I386: (17, 12, 15), AARCH64: (34, 32, 31)}
CODE, DATA, STACK = 0x5555_5555_0000, 0x5555_5556_0000, 0x7FFF_0000_0000
PAGES = (
    Segment(CODE, 0x1000, 0, 0, 5),
    Segment(DATA, 0x1000, 0, 0, 6),
    Segment(STACK, 0x20_0000, 0, 0, 6),
)
FILES = ((CODE, CODE + 0x1000, 0, b"/opt/engine"),)


class SparseMemory:
    """Memory that has a few pieces."""

    def __init__(self, pieces: dict[int, bytes]) -> None:
        self.reads = 0
        self._pieces = pieces

    def read(self, address: int, size: int) -> bytes:
        self.reads += 1
        for start, piece in self._pieces.items():
            if start <= address < start + len(piece):
                return piece[address - start : address - start + size]
        return b""


def crash_facts(
    signal: int,
    code: int,
    address: int,
    *,
    pc: int = CODE + 0x123,
    sp: int = STACK + 0x10_0000,
    tls: int = 0,
    tid: int = PID,
    pid: int | None = PID,
    machine: int = X86_64,
    segments: Iterable[Segment] = PAGES,
    files: Iterable[tuple[int, int, int, bytes]] = FILES,
    memory: dict[int, bytes] | None = None,
    state: Callable[[MappedFile], MappedFileState | None] = lambda _: None,
    registers: dict[int, int] | None = None,
) -> CrashFacts:
    """Return the facts of a crash by signal number, code and address, or sender."""
    word = 4 if machine == I386 else 8
    count, pc_at, sp_at = REGISTERS[machine]
    values = dict(enumerate([0] * count)) | {pc_at: pc, sp_at: sp} | ({21: tls} if machine == X86_64 else {})
    values |= registers or {}
    form = "<" + ("Q" if word == 8 else "I") * 4
    status = fake_core.prstatus(tid, signal, tuple(values.values()), machine=machine, word=word)
    found = b"".join(
        fake_core.note(kind, desc)
        for kind, desc in (
            (NT_PRSTATUS, status),
            (fake_core.NT_SIGINFO, fake_core.siginfo(signal, code, address, word=word)),
            (NT_AUXV, struct.pack(form, AT_EXECFN, STACK + 0x1F_FF00 if word == 8 else 0, 0, 0)),
            (fake_core.NT_FILE, fake_core.nt_file(list(files), word=word)),
        )
    )
    layout = Layout(word=word, order="<", machine=NAMES[machine])
    loads = list(segments)
    ident = fake_core.core(b"", machine=machine, word=word, loads=0)[: 64 if word == 8 else 52]
    data = b"".join(core_head(layout, ident, len(found), loads, count=len(loads))) + found
    header, _ = read_header(HeadReader(data))
    image = CoreImage(head=DumpHead(data=data, header=header), memory=SparseMemory(memory or {}))
    assert image.signal is not None
    thread = next(parse_thread(layout, note.desc) for note in notes(HeadReader(data))[1] if note.type == NT_PRSTATUS)
    return CrashFacts(
        image=image, signal=image.signal, pid=pid, thread=thread, state=image.threads[0], file_state=state
    )
