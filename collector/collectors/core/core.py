"""The core file: what its notes say, and the file itself."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import ClassVar

from collector.collectors.base import Context
from collector.collectors.core.apport_report import add_report
from collector.collectors.core.code_reader import opener
from collector.collectors.core.diagnosed import add_diagnosis
from collector.collectors.core.dump import dumped
from collector.collectors.core.dump_content import CoreCompression, CoreContent, DumpKeys
from collector.collectors.core.mapped_file_state import state_by_name
from collector.collectors.core.picked_memory import read_image
from collector.collectors.core.summary import CoreSummary, file_row, fill, threads_of
from collector.collectors.core.traced import Traced, add_trace, lines_of
from collector.host.apport import read_report
from collector.host.apport_core import EXCEPTION, NO_CORE
from collector.host.corefile import core_reader, mapped_files, open_core, path_of, written_once
from collector.host.elfcore import CoreError
from collector.host.files import describe
from collector.model.artifact import (
    Artifact,
    Bulk,
    CoreUse,
    Footprint,
    HeldUse,
    Method,
    NotApplicable,
    SourceInfo,
    Truncated,
)
from collector.model.case import CORE_SIGNALS
from collector.model.errors import StepError
from collector.model.marker import DUMP, HELD_DUMP, Marker
from collector.model.pressure import StepClass
from collector.model.signals import signal_name
from collector.model.text import json, jsonl
from collector.model.units import Bytes


class KeepCore(enum.StrEnum):
    """How the core file itself is kept."""

    AUTO = "auto"
    LINK = "link"
    COPY = "copy"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """
    Read the core, and keep it: the marker's core file, or what the kernel sends while it holds the process.

    Args:
        keep: Of a core file: ``auto`` keeps it as it is now, at the least cost: sharing its blocks where the file
            system can, else by a copy; by a hard link only if it is never written again. ``copy`` copies it, ``none``
            keeps only what its notes say. ``link`` is an old name for ``auto``.
        content: Of a core that the kernel sends: ``full``, all of it; ``stacks``, the threads' stacks and what a
            debugger needs beside them; ``notes``, the registers and the mapped files only.
        max_bytes: Maximum bytes of a core that the kernel sends; no limit by default.
        compress: ``zstd`` compresses a ``full`` core that the kernel sends.
    """

    name: ClassVar[str] = "core"
    footprint: ClassVar[Footprint] = Footprint(
        step_class=StepClass.DIRECT,
        peak_bytes=16 << 20,
        timeout_s=300.0,
        light_head=True,
        core=CoreUse.ITSELF,
        held=HeldUse.DUMP,
    )
    keep: KeepCore = KeepCore.AUTO
    content: CoreContent = CoreContent.FULL
    max_bytes: Bytes | None = None
    compress: CoreCompression = CoreCompression.NONE

    @property
    def receives_dump(self) -> bool:
        """Whether it takes all of a core that the kernel sends, which has to wait for a directory."""
        return self.content is CoreContent.FULL

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """
        Yield ``core.json``, ``threads.jsonl``, ``mapped_files.jsonl``, ``modules.jsonl``, then the core.

        Raises:
            StepError: If the core was replaced or is gone; at the end, if it was kept but could not be parsed.
            Truncated: At the end, if it was cut off, or written to while it was read; if there should be a core, and
                none was found.
            NotApplicable: If there is none by nature: a manual run, a process that was killed or lives.
        """
        core = ctx.marker.core
        if ctx.held is not None:
            keys = DumpKeys(content=self.content, max_bytes=self.max_bytes, compress=self.compress)
            yield from dumped(keys, ctx, ctx.held)
            return
        if core is None:
            absent = CoreSummary(path="", size_bytes=0, problem="the marker has no core file")
            add_diagnosis(absent, ctx)
            yield Artifact(path=PurePosixPath("core.json"), body=json(absent), media="json")
            raise _absent(ctx.marker)
        fd = open_core(ctx.host, core)
        try:
            # Source: systemd-coredump(8), ``user.coredump.*``.
            source = describe(fd, path_of(fd, ctx.host, core), xattrs="user.coredump.")
            summary, traced = _summary(fd, source, ctx)
            yield Artifact(path=PurePosixPath("core.json"), body=json(summary), source=source, media="json")
            if not summary.problem:
                threads = jsonl(threads_of(core_reader(fd), map(lines_of, traced.walks if traced else ())))
                yield Artifact(path=PurePosixPath("threads.jsonl"), body=threads, media="jsonl")
            if summary.mapped_files or not summary.problem:
                files = jsonl(map(file_row, mapped_files(fd)))
                yield Artifact(path=PurePosixPath("mapped_files.jsonl"), body=files, media="jsonl")
            if traced is not None:
                yield Artifact(path=PurePosixPath("modules.jsonl"), body=jsonl(traced.rows()), media="jsonl")
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
    if (dump := facts.get(DUMP)) == HELD_DUMP:
        return Truncated("the dump ended before its core was taken: the process is not held any more")
    if dump is not None:
        return Truncated(dump if dump.startswith("its dump ") else f"its dump was refused: {dump}")
    core_dumped, lost = facts.get("core_dumped"), facts.get("event") == "core_lost"
    died_so = marker.signal is not None and marker.signal in CORE_SIGNALS
    died = f"the process died of {signal_name(marker.signal)}" if marker.signal is not None else "it was announced"
    if core_dumped != "yes" and facts.get("core_limit") == "0" and (died_so or core_dumped == "pending"):
        return NotApplicable(f"{died}, with a core limit of 0")
    if died_so and core_dumped == "no":
        limit = "" if "core_limit" in facts else "its core limit was 0, or "
        return Truncated(f"{died}, and no core was written: {limit}it may not be dumped, or core_pattern leads nowhere")
    if died_so or core_dumped in {"yes", "pending"} or lost:
        return Truncated(f"no core was found, though {'one was dumped' if core_dumped == 'yes' or lost else died}")
    return NotApplicable("the marker has no core file")


def _summary(fd: int, source: SourceInfo, ctx: Context) -> tuple[CoreSummary, Traced | None]:
    size = os.fstat(fd).st_size
    summary = CoreSummary(path=source.path, size_bytes=size, attributes=source.xattrs or {})
    image = traced = None
    try:
        reader = core_reader(fd)
        header = fill(summary, reader, ctx.redaction)
        image = read_image(fd, reader)
        traced = add_trace(summary, image, opener(ctx.host))
        summary.cut_off = reader.is_cut_off(header.end_bytes)
    except CoreError as exc:
        summary.problem = str(exc)
    if (report := read_report(fd)) is not None:
        add_report(summary, report, ctx.redaction)
    add_diagnosis(summary, ctx, image, partial(state_by_name, ctx, fd), traced)
    return summary, traced
