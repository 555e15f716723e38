"""Everything that can be read about single processes."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import ClassVar

from collector.collectors.base import Context, about_nobody, names_nobody, names_of
from collector.collectors.process.process_files import (
    EXEC_FILES,
    FILES,
    LARGE_FILES,
    MEMORY_FILES,
    THREAD_EXEC_FILES,
    THREAD_FILES,
    links,
    open_files,
    table,
    thread_ids,
    thread_row,
)
from collector.collectors.process.process_selection import (
    ENDED,
    INCOMPLETE,
    UNCONFIRMED,
    ProcessOutcome,
    ProcessRow,
    hold,
    owner_of,
)
from collector.host.guarded_read import Guard
from collector.host.procfs import Process, ReplacedError
from collector.host.read_errors import ReadErrors
from collector.host.subordinates import owners
from collector.model.artifact import Artifact, Body, Footprint, HeldUse, NotApplicable, SourceInfo, Truncated
from collector.model.errors import StepError
from collector.model.marker import Marker, MarkerKind, unnamed
from collector.model.pressure import StepClass
from collector.model.redaction import Redaction
from collector.model.text import joined, json, jsonl
from collector.model.units import Bytes, Seconds

HELD_SHARE = 0.25
"""
Of the time for which a process is held, the part after which a read that hangs is given up; all take 20 ms. With the
whole `read_timeout`, nothing that may hang would be begun of a process that is held for less than two of them.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessDetails:
    """
    Copy the files of ``/proc/PID``, for the processes that the marker names and for those that match.

    Args:
        match: Globs for a process's name (``comm``) or the path or base name of its executable.
        max_processes: Maximum number of processes.
        max_threads: Maximum threads per process.
        max_fds: Maximum open descriptors per process.
        max_bytes: Maximum bytes per file.
        read_timeout: Deadline for one read that takes a process's own locks; after it the rest of that
            process's memory files are skipped.
    """

    name: ClassVar[str] = "process"
    footprint: ClassVar[Footprint] = Footprint(
        step_class=StepClass.LIGHT, peak_bytes=8 << 20, timeout_s=20.0, held=HeldUse.READ
    )
    match: tuple[str, ...] = ()
    max_processes: int = 32
    max_threads: int = 4096
    max_fds: int = 10_000
    max_bytes: Bytes = Bytes(16 << 20)
    read_timeout: Seconds = Seconds(1.0)

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """
        Yield what cannot hang, of all processes; then what can, with deadlines; then what may be large.

        Raises:
            StepError: At the end, if a PID of the marker belongs to another process.
            Truncated: At the end, if the marker names no process though it is about one, a process given by hand is
                gone, or a glob matches none.
            NotApplicable: At the end, if the marker is about none, or its process had ended.
        """
        unmatched = set(self.match)
        unread = ReadErrors()
        rows: list[ProcessRow] = []
        users = owners(ctx.host)
        with ExitStack() as stack, closing(Guard(self._patience_s(ctx))) as guard:
            held = list(
                hold(
                    ctx.host,
                    ctx.marker,
                    globs=self.match,
                    limit=self.max_processes,
                    stack=stack,
                    rows=rows,
                    unmatched=unmatched,
                )
            )
            for process, row in held:
                yield from _while_the_same(process, row, self._state(process, unread))
            for process, row in held:
                if row.outcome is not ProcessOutcome.READ:
                    continue
                owner, gave_up = owner_of(process, users), guard.gave_up
                if ctx.remaining_s() < guard.longest_s:
                    row.end(ProcessOutcome.PARTIAL, "the step's time was used up")
                elif not guard.may_read(owner):
                    row.end(ProcessOutcome.PARTIAL, f"other processes of {owner} hold their locks")
                else:
                    yield from _while_the_same(process, row, self._guarded(process, row, ctx.redaction, guard, unread))
                if guard.gave_up > gave_up:
                    guard.blame(owner)
            for process, row in held:
                if row.outcome not in {ProcessOutcome.REPLACED, *ENDED}:
                    yield from _while_the_same(process, row, self._large(process, row, guard, unread))
        incomplete = [f"{row.pid} is {row.outcome} ({row.detail})" for row in rows if row.outcome in INCOMPLETE]
        lines = jsonl(rows, cut=f"process {incomplete[0]}" if incomplete else None)
        yield Artifact(path=PurePosixPath("inventory.jsonl"), body=lines, media="jsonl")
        yield from unread.artifacts()
        replaced = [str(row.pid) for row in rows if row.outcome is ProcessOutcome.REPLACED]
        if replaced:
            raise StepError(
                f"another process has PID {', '.join(replaced)} now; nothing of it was kept",
                hint="the crashed process is gone; look at its core file",
            )
        self._check_nobody_is_missing(ctx.marker, rows, unmatched)

    def _patience_s(self, ctx: Context) -> float:
        """Return how long a read may take: of a process that is held for a short time only, a part of that."""
        return self.read_timeout if ctx.held is None else min(self.read_timeout, HELD_SHARE * ctx.remaining_s())

    def _check_nobody_is_missing(self, marker: Marker, rows: list[ProcessRow], unmatched: set[str]) -> None:
        """Raise `Truncated` or `NotApplicable`, as `collect` says."""
        reasons = []
        if unmatched and not any(row.outcome is ProcessOutcome.NOT_READ for row in rows):
            reasons.append(f"no process matches {names_of(sorted(unmatched))}")
        own = [row for row in rows if row.why == "marker"]
        ended = [f"process {row.pid}: {row.detail}" for row in own if row.outcome in ENDED]
        if marker.kind is MarkerKind.MANUAL:
            reasons += ended
        why = about_nobody(marker)
        if marker.core is not None:
            why = "its process had ended; the core says the rest"
        elif marker.process is None and marker.inner_pid is not None:
            why = unnamed(marker)
        elif marker.thread is not None or marker.inner_pid is not None:
            why = f"process: {UNCONFIRMED}"
        elif not own and not self.match and not names_nobody(marker):
            reasons.append("the marker names no process")
        if reasons:
            raise Truncated("; ".join(reasons))
        if not self.match and len(ended) == len(own):
            raise NotApplicable("; ".join(ended) or why)

    def _state(self, process: Process, unread: ReadErrors) -> Iterator[Artifact]:
        for name in FILES:
            yield from self._file(process, name, unread)
        found = json(links(process, unread))
        process.check()
        yield _artifact(process, "links.json", found, media="json")
        fds = open_files(process, unread, limit=self.max_fds)
        yield _artifact(process, "fds.jsonl", table(fds), media="jsonl")

    def _guarded(
        self, process: Process, row: ProcessRow, redaction: Redaction, guard: Guard, unread: ReadErrors
    ) -> Iterator[Artifact]:
        gave_up = guard.gave_up
        ids = thread_ids(process, unread, limit=self.max_threads)
        stacks = (guard.call(partial(thread_row, process, tid, THREAD_EXEC_FILES, unread)) for tid in ids)
        yield _artifact(process, "stacks.jsonl", table(stacks), media="jsonl")
        for name in (*EXEC_FILES, *MEMORY_FILES):
            if guard.gave_up > gave_up:
                unread.add(f"/proc/{process.pid}/{name}", "not tried: a read before it did not return")
            else:
                yield from self._file(process, name, unread, redaction=redaction, guard=guard)
        if guard.gave_up > gave_up:
            row.end(ProcessOutcome.WEDGED, "it holds a lock that reading its memory files takes")

    def _large(self, process: Process, row: ProcessRow, guard: Guard, unread: ReadErrors) -> Iterator[Artifact]:
        """Yield what can be larger than the memory for light evidence, and would keep out all that follows it."""
        ids = thread_ids(process, unread, limit=self.max_threads)
        rows = (thread_row(process, tid, THREAD_FILES, unread) for tid in ids)
        yield _artifact(process, "threads.jsonl", table(rows), media="jsonl")
        if row.outcome is ProcessOutcome.READ:
            for name in LARGE_FILES:
                yield from self._file(process, name, unread, guard=guard)

    def _file(
        self,
        process: Process,
        name: str,
        unread: ReadErrors,
        *,
        redaction: Redaction | None = None,
        guard: Guard | None = None,
    ) -> Iterator[Artifact]:
        """Yield one file, or record why it could not be read."""
        try:
            content = process.stream(name, limit=self.max_bytes, guard=guard)
        except ReplacedError:
            raise
        except (OSError, StepError) as exc:
            process.check()
            # attr/current gives EINVAL on a kernel without security modules.
            if not (isinstance(exc, OSError) and exc.errno in {errno.ENOENT, errno.EINVAL}):
                unread.add(f"/proc/{process.pid}/{name}", exc)
            return
        if redaction is not None:
            content = _redacted(name, content, redaction)
        yield _artifact(process, name, content, media="binary" if name == "auxv" else "text")


def _while_the_same(process: Process, row: ProcessRow, artifacts: Iterator[Artifact]) -> Iterator[Artifact]:
    """Pass on artifacts until the process ends or another one has its PID."""
    try:
        yield from artifacts
        process.check()
    except ReplacedError as exc:
        row.end(ProcessOutcome.REPLACED, str(exc))
    except ProcessLookupError:
        row.end(ProcessOutcome.ENDED, "it ended while it was read")


def _redacted(name: str, content: bytes | Iterator[bytes], redaction: Redaction) -> bytes | Iterator[bytes]:
    pieces = (content,) if isinstance(content, bytes) else content
    if name == "environ":
        return joined(redaction.environ(pieces))
    if name == "cmdline":
        return joined(redaction.command_line(pieces))
    return content


def _artifact(process: Process, name: str, content: Body, *, media: str) -> Artifact:
    source = SourceInfo(path=f"/proc/{process.pid}/{name.partition('.json')[0]}")
    return Artifact(path=PurePosixPath(str(process.pid), *name.split("/")), body=content, source=source, media=media)
