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
from collector.collectors.core.apport_report import add_report
from collector.collectors.core.notes import (
    ARGUMENTS_BYTES,
    CoreSignal,
    CoreThread,
    parse_process,
    parse_signal,
    parse_thread,
)
from collector.host.apport import read_report
from collector.host.apport_core import EXCEPTION, NO_CORE
from collector.host.corefile import core_reader, mapped_files, open_core, path_of, written_once
from collector.host.elfcore import (
    NT_FILE,
    NT_PRPSINFO,
    NT_PRSTATUS,
    NT_SIGINFO,
    CoreError,
    MappedFile,
    notes,
    parse_mapped_files,
)
from collector.host.files import describe
from collector.model.artifact import Artifact, Bulk, CoreUse, Footprint, Method, NotApplicable, SourceInfo, Truncated
from collector.model.case import CORE_SIGNALS
from collector.model.errors import StepError
from collector.model.marker import Marker
from collector.model.pressure import StepClass
from collector.model.redaction import Redaction
from collector.model.signals import signal_name
from collector.model.text import escape, json, jsonl


class KeepCore(enum.StrEnum):
    """How the core file itself is kept."""

    AUTO = "auto"
    LINK = "link"
    COPY = "copy"
    NONE = "none"


class CoreSummary(msgspec.Struct, kw_only=True, omit_defaults=True):
    """
    ``core.json``. IDs are those of the process's own namespaces, from an Apport report without a core the host's; text
    is escaped.

    *cut_off*: the file ends before its last segment does (a limit, a full disk), so memory is missing.
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
        keep: ``auto`` keeps it as it is now, at the least cost: sharing its blocks where the file system can, else
            by a copy; by a hard link only if it is never written again. ``copy`` copies it, ``none`` keeps only
            what its notes say. ``link`` is an old name for ``auto``.
    """

    name: ClassVar[str] = "core"
    footprint: ClassVar[Footprint] = Footprint(
        step_class=StepClass.DIRECT, peak_bytes=16 << 20, timeout_s=300.0, light_head=True, core=CoreUse.ITSELF
    )
    keep: KeepCore = KeepCore.AUTO

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """
        Yield ``core.json``, ``threads.jsonl``, ``mapped_files.jsonl``, then the core.

        Raises:
            StepError: If the core was replaced or is gone; at the end, if it was kept but could not be parsed.
            Truncated: At the end, if it was cut off, or written to while it was read; if there should be a core, and
                none was found.
            NotApplicable: If there is none by nature: a manual run, a process that was killed or lives.
        """
        core = ctx.marker.core
        if core is None:
            absent = CoreSummary(path="", size_bytes=0, problem="the marker has no core file")
            yield Artifact(path=PurePosixPath("core.json"), body=json(absent), media="json")
            raise _absent(ctx.marker)
        fd = open_core(ctx.host, core)
        try:
            # Source: systemd-coredump(8), ``user.coredump.*``.
            source = describe(fd, path_of(fd, ctx.host, core), xattrs="user.coredump.")
            summary = _summary(fd, source, ctx.redaction)
            yield Artifact(path=PurePosixPath("core.json"), body=json(summary), source=source, media="json")
            if not summary.problem:
                yield Artifact(path=PurePosixPath("threads.jsonl"), body=jsonl(_threads(fd)), media="jsonl")
            if summary.mapped_files or not summary.problem:
                files = jsonl(map(_row, mapped_files(fd)))
                yield Artifact(path=PurePosixPath("mapped_files.jsonl"), body=files, media="jsonl")
            if self.keep is not KeepCore.NONE:
                kept = Bulk(fd=os.dup(fd), instead=self._instead(fd))
                yield Artifact(path=PurePosixPath("core"), body=kept, source=source, media="binary")
            info = os.fstat(fd)
        finally:
            os.close(fd)
        if (info.st_size, info.st_mtime_ns) != (summary.size_bytes, source.mtime_ns):
            raise Truncated("the core was written to while it was read: part of it may be another crash's")
        if summary.problem == EXCEPTION:
            raise NotApplicable(EXCEPTION)
        if summary.problem == NO_CORE:
            raise Truncated(NO_CORE)
        if summary.problem:
            raise StepError(f"core file {core.path!r}: {summary.problem}")
        if summary.cut_off:
            raise Truncated("the core was cut off: part of its memory is missing")

    def _instead(self, fd: int) -> tuple[Method, ...]:
        """Return how to keep the core without copying it; by a second name only if it is never written again."""
        if self.keep is KeepCore.COPY:
            return ()
        return (Method.LINK, Method.REFLINK) if written_once(fd) else (Method.REFLINK,)


def _absent(marker: Marker) -> Truncated | NotApplicable:
    """Return why a marker has no core: the end of the step."""
    facts = marker.attributes
    dumped, lost = facts.get("core_dumped"), facts.get("event") == "core_lost"
    died_so = marker.signal is not None and marker.signal in CORE_SIGNALS
    died = f"the process died of {signal_name(marker.signal)}" if marker.signal is not None else "it was announced"
    if dumped != "yes" and facts.get("core_limit") == "0" and (died_so or dumped == "pending"):
        return NotApplicable(f"{died}, with a core limit of 0")
    if died_so and dumped == "no":
        limit = "" if "core_limit" in facts else "its core limit was 0, or "
        return Truncated(f"{died}, and no core was written: {limit}it may not be dumped, or core_pattern leads nowhere")
    if died_so or dumped in {"yes", "pending"} or lost:
        return Truncated(f"no core was found, though {'one was dumped' if dumped == 'yes' or lost else died}")
    return NotApplicable("the marker has no core file")


def _summary(fd: int, source: SourceInfo, redaction: Redaction) -> CoreSummary:
    size = os.fstat(fd).st_size
    summary = CoreSummary(path=source.path, size_bytes=size, attributes=source.xattrs or {})
    try:
        reader = core_reader(fd)
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
                summary.mapped_files = sum(1 for _ in parse_mapped_files(layout, note.desc))
            elif note.type == NT_PRPSINFO and (process := parse_process(layout, note.desc)) is not None:
                summary.pid, summary.ppid = process.pid, process.ppid
                summary.uid, summary.gid = process.uid, process.gid
                summary.command = escape(process.command)
                summary.arguments = _arguments(process.arguments, redaction)
        summary.cut_off = reader.is_cut_off(header.end_bytes)
    except CoreError as exc:
        summary.problem = str(exc)
    if (report := read_report(fd)) is not None:
        add_report(summary, report, redaction)
    return summary


def _arguments(raw: bytes, redaction: Redaction) -> str:
    return escape(redaction.text(raw, is_cut=len(raw) >= ARGUMENTS_BYTES - 1))


def _threads(fd: int) -> Iterator[CoreThread]:
    """Yield the threads; the kernel writes the one that crashed first."""
    header, found = notes(core_reader(fd))
    for note in found:
        if note.type == NT_PRSTATUS and (thread := parse_thread(header.layout, note.desc)) is not None:
            yield thread


def _row(file: MappedFile) -> MappedFileRow:
    return MappedFileRow(start=f"{file.start:#x}", end=f"{file.end:#x}", offset=file.offset, path=escape(file.path))
