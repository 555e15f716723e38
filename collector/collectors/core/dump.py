"""The dump of a process that the kernel holds, as artifacts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from functools import partial
from pathlib import PurePosixPath

from collector.collectors.base import Context
from collector.collectors.core.code_reader import mapping_opener, opener
from collector.collectors.core.diagnosed import add_diagnosis
from collector.collectors.core.dump_content import CoreContent, DumpKeys, DumpTaker
from collector.collectors.core.image import CoreImage
from collector.collectors.core.mapped_file_state import state_of_held
from collector.collectors.core.mapped_memory import MappedMemory
from collector.collectors.core.summary import CoreSummary, file_row, fill, threads_of
from collector.collectors.core.traced import Traced, add_trace, lines_of
from collector.host.core_memory import NO_MEMORY, CoreMemory, HeldMemory
from collector.host.core_stream import CoreStream, DumpHead, read_head
from collector.host.corefile import files_of
from collector.host.elfcore import CoreError
from collector.host.held_process import HeldProcess
from collector.host.process_memory import ProcessMemory
from collector.host.procfs import Process
from collector.model.artifact import Artifact, Body, Incoming, SourceInfo
from collector.model.errors import StepError
from collector.model.text import json, jsonl

CORE = PurePosixPath("core")


def dumped(keys: DumpKeys, ctx: Context, held: HeldProcess) -> Iterator[Artifact]:
    """
    Yield ``core.json``, ``threads.jsonl``, ``mapped_files.jsonl``, ``modules.jsonl`` and ``core`` of a held process.

    Stacks and notes are complete in memory before the first artifact is yielded; the caller lets the process go.

    Raises:
        StepError: If the dump does not come; at the end, if what came is not a core.
    """
    source = SourceInfo(path=f"/proc/{held.process.pid}")
    stream = CoreStream(held.stream_fd, deadline_s=min(held.deadline_s, ctx.deadline_s))
    try:
        held.accept()
        head = read_head(stream)
    except OSError as exc:
        raise StepError(f"the dump did not come: {exc.strerror}") from exc
    except CoreError as exc:
        summary = CoreSummary(path="", size_bytes=0, problem=str(exc), received=held.source)
        yield Artifact(path=PurePosixPath("core.json"), body=json(summary), source=source, media="json")
        yield Artifact(path=CORE, body=_unread(keys, held, stream), source=source, media="binary")
        raise StepError(f"the dump of process {held.process.pid}: {exc}") from exc
    with ExitStack() as stack:
        taken = DumpTaker(keys=keys, ctx=ctx, held=held, head=head, stack=stack).take()
        summary = CoreSummary(path="", size_bytes=head.header.end_bytes, received=held.source, content=taken.content)
        fill(summary, head.reader(), ctx.redaction)
        traced = _traced(summary, head, ctx, held)
        yield from _facts(summary, head, source, traced)
        yield Artifact(path=CORE, body=taken.body, source=source, truncated=taken.reason, media="binary")


def _traced(summary: CoreSummary, head: DumpHead, ctx: Context, held: HeldProcess) -> Traced:
    """Add to *summary* what the process's memory says; if that is gone, what the notes do."""
    with ExitStack() as stack:
        memory: CoreMemory = NO_MEMORY
        open_file = opener(ctx.host)
        with suppress(OSError, StepError):
            process = stack.enter_context(Process(ctx.host, held.process.pid, held.process.start_time_ticks))
            held_memory = HeldMemory(stack.enter_context(ProcessMemory(process)))
            open_file = mapping_opener(process)
            files = CoreImage(head=head, memory=NO_MEMORY).files
            memory = stack.enter_context(closing(MappedMemory(held_memory, files, open_file)))
        image = CoreImage(head=head, memory=memory)
        traced = add_trace(summary, image, open_file)
        add_diagnosis(summary, ctx, image, partial(state_of_held, ctx, held), traced)
        return traced


def _facts(summary: CoreSummary, head: DumpHead, source: SourceInfo, traced: Traced) -> Iterator[Artifact]:
    """Yield what the notes and the memory say."""
    yield Artifact(path=PurePosixPath("core.json"), body=json(summary), source=source, media="json")
    cut = "the notes of more threads were not read" if head.notes_cut else ""
    rows = jsonl(threads_of(head.reader(), map(lines_of, traced.walks)))
    yield Artifact(path=PurePosixPath("threads.jsonl"), body=rows, source=source, truncated=cut, media="jsonl")
    rows = jsonl(map(file_row, files_of(head.reader())))
    yield Artifact(path=PurePosixPath("mapped_files.jsonl"), body=rows, source=source, media="jsonl")
    yield Artifact(path=PurePosixPath("modules.jsonl"), body=jsonl(traced.rows()), source=source, media="jsonl")


def _unread(keys: DumpKeys, held: HeldProcess, stream: CoreStream) -> Body:
    """Return a dump that cannot be parsed: all of it, if that was asked for and there is time."""
    if keys.content is CoreContent.FULL and not held.hurry and time.monotonic() < stream.deadline_s:
        return Incoming(fd=held.stream_fd, head=bytes(stream.head), limit_bytes=keys.max_bytes)
    return bytes(stream.head)
