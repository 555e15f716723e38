"""The core file: what its notes say, and the file itself."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

import msgspec

from collector.collectors.base import Context
from collector.host.corefile import core_reader, open_core
from collector.host.corenotes import MappedFile, Signal, Thread, mapped_files, parse_process, parse_signal, parse_thread
from collector.host.elfcore import (
    NT_FILE,
    NT_PRPSINFO,
    NT_PRSTATUS,
    NT_SIGINFO,
    CoreError,
    notes,
)
from collector.model.artifact import Artifact, Bulk, Footprint, HardLink, SourceInfo, Truncated
from collector.model.errors import StepError
from collector.model.pressure import StepClass
from collector.model.redaction import Redaction
from collector.model.text import escape, escape_name, json, jsonl


class Keep(enum.StrEnum):
    """What becomes of the core file itself."""

    LINK = "link"
    COPY = "copy"
    NONE = "none"


class Summary(msgspec.Struct, kw_only=True, omit_defaults=True):
    """
    ``core.json``. IDs are those of the process's own namespaces; text is escaped.

    *cut_off* is true if the file ends before its last segment does (a limit, a full disk): the
    process's memory is then not all there.
    """

    path: str
    size_bytes: int
    problem: str = ""
    machine: str = ""
    bits: int = 0
    signal: Signal | None = None
    pid: int | None = None
    ppid: int | None = None
    uid: int | None = None
    gid: int | None = None
    command: str = ""
    arguments: str = ""
    crashed_thread: Thread | None = None
    threads: int = 0
    mapped_files: int = 0
    segments: int = 0
    memory_bytes: int = 0
    cut_off: bool = False
    attributes: dict[str, str] = {}


class MappedFileRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``mapped_files.jsonl``; addresses in hexadecimal, *offset* in bytes."""

    start: str
    end: str
    offset: int
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """
    Read the marker's core file, and keep it.

    Args:
        keep: ``link`` keeps the file itself under a second name (and copies where no link can be
            made), ``copy`` copies it, ``none`` keeps only what its notes say.
    """

    name: ClassVar[str] = "core"
    footprint: ClassVar[Footprint] = Footprint(
        step_class=StepClass.DIRECT, peak_bytes=16 << 20, timeout_s=300.0, light_head=True
    )
    keep: Keep = Keep.LINK

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """
        Yield ``core.json``, ``threads.jsonl``, ``mapped_files.jsonl``, then the core.

        A marker without a core file (a run by hand, a process that was killed) is no failure.

        Raises:
            StepError: If the core was replaced or is gone; at the end, if it could be kept but not parsed.
        """
        core = ctx.marker.core
        if core is None:
            absent = Summary(path="", size_bytes=0, problem="the marker has no core file")
            yield Artifact(path=PurePosixPath("core.json"), body=json(absent), media="json")
            return
        fd = open_core(ctx.host, core)
        try:
            status = os.fstat(fd)
            source = SourceInfo(
                # The trigger has escaped what is not printable; what others hand in may not be.
                path=core.path if core.path.isprintable() else escape_name(core.path),
                uid=status.st_uid,
                gid=status.st_gid,
                mode=status.st_mode & 0o7777,
                mtime_ns=status.st_mtime_ns,
                xattrs=_attributes(fd) or None,
            )
            summary = _summary(fd, source, ctx.redaction)
            yield Artifact(path=PurePosixPath("core.json"), body=json(summary), source=source, media="json")
            if not summary.problem:
                yield Artifact(path=PurePosixPath("threads.jsonl"), body=jsonl(_threads(fd)), media="jsonl")
                yield Artifact(path=PurePosixPath("mapped_files.jsonl"), body=jsonl(_files(fd)), media="jsonl")
            if self.keep is not Keep.NONE:
                kept = HardLink(fd=os.dup(fd)) if self.keep is Keep.LINK else Bulk(fd=os.dup(fd))
                yield Artifact(path=PurePosixPath("core"), body=kept, source=source, media="binary")
        finally:
            os.close(fd)
        if summary.problem:
            raise StepError(f"core file {core.path!r}: {summary.problem}")


def _summary(fd: int, source: SourceInfo, redaction: Redaction) -> Summary:
    """Read the notes once, for all that fits into one document."""
    size = os.fstat(fd).st_size
    summary = Summary(path=source.path, size_bytes=size, attributes=source.xattrs or {})
    try:
        header, found = notes(core_reader(fd))
        layout = header.layout
        summary.machine, summary.bits = layout.machine, layout.word * 8
        summary.segments, summary.memory_bytes = header.segments, header.memory_bytes
        summary.cut_off = _is_elf(fd) and size < header.end_bytes
        for note in found:
            if note.type == NT_PRSTATUS:
                summary.threads += 1
                summary.crashed_thread = summary.crashed_thread or parse_thread(layout, note.desc)
            elif note.type == NT_SIGINFO:
                summary.signal = summary.signal or parse_signal(layout, note.desc)
            elif note.type == NT_FILE:
                summary.mapped_files += sum(1 for _ in mapped_files(layout, note.desc))
            elif note.type == NT_PRPSINFO and (process := parse_process(layout, note.desc)) is not None:
                summary.pid, summary.ppid, summary.uid, summary.gid = (
                    process.pid,
                    process.ppid,
                    process.uid,
                    process.gid,
                )
                summary.command = escape(process.command)
                summary.arguments = escape(b" ".join(redaction.arguments(process.arguments.split(b" "))))
    except CoreError as exc:
        summary.problem = str(exc)
    return summary


def _is_elf(fd: int) -> bool:
    return os.pread(fd, 4, 0) == b"\x7fELF"


def _threads(fd: int) -> Iterator[Thread]:
    """Read the notes once more, thread by thread; the one that crashed comes first."""
    header, found = notes(core_reader(fd))
    for note in found:
        if note.type == NT_PRSTATUS and (thread := parse_thread(header.layout, note.desc)) is not None:
            yield thread


def _files(fd: int) -> Iterator[MappedFileRow]:
    header, found = notes(core_reader(fd))
    for note in found:
        if note.type == NT_FILE:
            yield from map(_row, mapped_files(header.layout, note.desc))
            if note.size_bytes > len(note.desc):
                raise Truncated(f"only the first {len(note.desc)} bytes of the list of mapped files were read")


def _row(file: MappedFile) -> MappedFileRow:
    return MappedFileRow(start=f"{file.start:#x}", end=f"{file.end:#x}", offset=file.offset, path=escape(file.path))


def _attributes(fd: int) -> dict[str, str]:
    """Return what systemd-coredump wrote beside the core. Source: systemd-coredump(8), ``user.coredump.*``."""
    try:
        names = [name for name in os.listxattr(fd) if name.startswith("user.coredump.")]
        return {escape_name(name): escape(os.getxattr(fd, name)[:4096]) for name in names[:32]}
    except OSError:
        return {}
