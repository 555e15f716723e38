"""What a core says of its process: ``core.json`` and the rows beside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from msgspec.structs import replace

from collector.collectors.core.notes import (
    ARGUMENTS_BYTES,
    CoreSignal,
    CoreThread,
    parse_process,
    parse_signal,
    parse_thread,
)
from collector.host.elfcore import (
    NT_FILE,
    NT_PRPSINFO,
    NT_PRSTATUS,
    NT_SIGINFO,
    CoreHeader,
    CoreReader,
    MappedFile,
    notes,
)
from collector.host.mapped_files import MappedFileTable
from collector.model.redaction import Redaction
from collector.model.text import escape


class CoreSummary(msgspec.Struct, kw_only=True, omit_defaults=True):
    """
    ``core.json``. IDs are those of the process's own namespaces, from an Apport report without a core the host's; text
    is escaped.

    *cut_off*: the file ends before its last segment does (a limit, a full disk), so memory is missing. *received*: it
    came from the kernel while that held the process, by a ``socket`` or a ``pipe``; *content* is then what ``core``
    holds of it (``full``, ``present``, ``stacks`` or ``notes``), and *size_bytes* how long the kernel's own would be.

    *program* is the file that was executed, as it was mapped, *started_as* the path by which (AT_EXECFN); *build_id*
    and *package* (its package note) are the program's. *frames* are the crashed thread's. *signature* is the hash of
    *signature_of*. *diagnosis*: what the crash was, in one sentence; empty if the facts do not allow to say.
    """

    path: str
    size_bytes: int
    problem: str = ""
    machine: str = ""
    bits: int = 0
    signal: CoreSignal | None = None
    pid: int | None = None
    ppid: int | None = None
    uid: int | None = None
    gid: int | None = None
    command: str = ""
    arguments: str = ""
    crashed_thread: CoreThread | None = None
    threads: int = 0
    mapped_files: int = 0
    segments: int = 0
    memory_bytes: int = 0
    cut_off: bool = False
    attributes: dict[str, str] = {}
    received: str = ""
    content: str = ""
    program: str = ""
    started_as: str = ""
    build_id: str = ""
    package: dict[str, str] = {}
    modules: int = 0
    frames: tuple[str, ...] = ()
    frames_end: str = ""
    signature: str = ""
    signature_of: str = ""
    signature_reason: str = ""
    crash_key: str = ""
    diagnosis: str = ""
    diagnosis_kind: str = ""


class MappedFileRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``mapped_files.jsonl``; addresses in hexadecimal, *offset* in bytes."""

    start: str
    end: str
    offset: int
    path: str


def fill(summary: CoreSummary, reader: CoreReader, redaction: Redaction) -> CoreHeader:
    """
    Add what the core behind *reader* says, and return its header.

    Raises:
        CoreError: If it is not a core, or cannot be read; what was found before that stays.
    """
    header, found = notes(reader)
    layout = header.layout
    summary.machine, summary.bits = layout.machine, layout.word * 8
    summary.segments, summary.memory_bytes = header.segments, header.memory_bytes
    for note in found:
        if note.type == NT_PRSTATUS:
            summary.threads += 1
            summary.crashed_thread = summary.crashed_thread or parse_thread(layout, note.desc)
        elif note.type == NT_SIGINFO:
            summary.signal = summary.signal or parse_signal(layout, note.desc)
        elif note.type == NT_FILE and not summary.mapped_files:  # the kernel writes one
            summary.mapped_files = len(MappedFileTable(layout, note.desc))
        elif note.type == NT_PRPSINFO and (process := parse_process(layout, note.desc)) is not None:
            summary.pid, summary.ppid = process.pid, process.ppid
            summary.uid, summary.gid = process.uid, process.gid
            summary.command = escape(process.command)
            summary.arguments = escape(
                redaction.text(process.arguments, is_cut=len(process.arguments) >= ARGUMENTS_BYTES - 1)
            )
    return header


def threads_of(reader: CoreReader, frames: Iterable[tuple[tuple[str, ...], str]] = ()) -> Iterator[CoreThread]:
    """Yield the threads, with their *frames* as far as there are some; the kernel writes the one that crashed first."""
    header, found = notes(reader)
    known = iter(frames)
    for note in found:
        if note.type == NT_PRSTATUS:
            lines, end = next(known, ((), ""))
            if (thread := parse_thread(header.layout, note.desc)) is not None:
                yield replace(thread, frames=lines, frames_end=end)


def file_row(file: MappedFile) -> MappedFileRow:
    """Return a mapping as a line of ``mapped_files.jsonl``."""
    return MappedFileRow(start=f"{file.start:#x}", end=f"{file.end:#x}", offset=file.offset, path=escape(file.path))
