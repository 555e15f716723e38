"""What the frames of a core's threads say, with the modules that they are in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from collector.collectors.core.auxv import AT_ENTRY, AT_EXECFN, AT_PHDR
from collector.collectors.core.code_reader import CodeReader, OpenFile
from collector.collectors.core.dwarf_registers import machine_of, registers_of
from collector.collectors.core.frames import END, FrameWalker, Walk
from collector.collectors.core.image import CoreImage
from collector.collectors.core.module import Module, ModuleRow, ModuleTable, modules_of, package_of, row_of
from collector.collectors.core.signature import signature_of
from collector.collectors.core.stacks import GUARD_BYTES
from collector.collectors.core.summary import CoreSummary
from collector.collectors.core.thread_state import thread_states
from collector.host.elf_notes import raw_notes
from collector.host.elfcore import MAX_PATH_BYTES, NT_PRSTATUS
from collector.model.text import escape

MAX_THREADS = 256
"""A thread of 8 frames takes 0.3 to 1 ms."""


class Traced(NamedTuple):
    """The modules of a core, the program among them, and the frames of its first threads, the crashed one first."""

    modules: ModuleTable
    program: Module | None
    walks: Sequence[Walk]

    def rows(self) -> Iterator[ModuleRow]:
        """Yield the lines of ``modules.jsonl``."""
        return map(row_of, self.modules)


def add_trace(summary: CoreSummary, image: CoreImage, open_file: OpenFile) -> Traced:
    """Add what frames and modules say to *summary*; *open_file* opens a mapping's file."""
    traced = trace(image, open_file)
    summary.modules = len(traced.modules)
    summary.started_as = _started_as(image)
    if (program := traced.program) is not None:
        summary.program, summary.build_id, summary.package = escape(program.path), program.build_id, package_of(program)
    if traced.walks:
        summary.frames, summary.frames_end = lines_of(traced.walks[0])
        name = program.name if program is not None else summary.command
        found = signature_of(summary.signal, name, traced.walks[0], overflow=_is_at_the_end_of_its_stack(image))
        summary.signature, summary.signature_of, summary.crash_key, summary.signature_reason = found
        if not image.files:
            summary.signature_reason = "the list of mapped files was not read: it is too long, or not there"
    return traced


def lines_of(walk: Walk) -> tuple[tuple[str, ...], str]:
    """Return the frames of a thread as text, and why they end, if that is not at its beginning."""
    return tuple(map(str, walk.frames)), "" if walk.end == END else walk.end


def _is_at_the_end_of_its_stack(image: CoreImage) -> bool:
    """Return whether the crashed thread used memory near its stack pointer that it does not have."""
    signal, threads = image.signal, image.threads
    if signal is None or signal.fault_address is None or not threads:
        return False
    return abs(int(signal.fault_address, 16) - threads[0].sp) <= GUARD_BYTES


def _started_as(image: CoreImage) -> str:
    """Return the path by which the program was started (AT_EXECFN), which is on the stack of its first thread."""
    at = image.auxv.get(AT_EXECFN, 0)
    return escape(image.memory.read(at, MAX_PATH_BYTES).partition(b"\0")[0]) if at else ""


def trace(image: CoreImage, open_file: OpenFile) -> Traced:
    """Find the modules of a core and walk the frames of its threads; *open_file* opens a mapping's file."""
    modules = modules_of(image)
    auxv = image.auxv
    program = next((found for kind in (AT_ENTRY, AT_PHDR) if (found := modules.find(auxv.get(kind, 0)))), None)
    return Traced(modules, program, _walks(image, modules, open_file))


def _walks(image: CoreImage, modules: ModuleTable, open_file: OpenFile) -> list[Walk]:
    machine = machine_of(image.layout)
    with CodeReader(image, modules, open_file) as code:
        walker = FrameWalker(image, modules, code)
        if machine is None:
            states = zip(range(MAX_THREADS), thread_states(image.layout, image.head.notes), strict=False)
            return [walker.walk(state.pc, {}) for _, state in states]
        found = raw_notes(image.layout, image.head.notes)
        threads = (note.desc for note in found if note.type == NT_PRSTATUS and note.name == b"CORE")
        descs = (desc for _, desc in zip(range(MAX_THREADS), threads, strict=False))
        return [walker.walk(*registers_of(image.layout, machine, desc)) for desc in descs]
