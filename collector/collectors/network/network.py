"""The sockets of the crashed process, and the counters of its network namespace."""

from __future__ import annotations

import errno
import heapq
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import PurePosixPath
from typing import ClassVar

from collector.collectors.base import Context, about_nobody, names_nobody
from collector.collectors.network.counters import counters
from collector.collectors.network.named_processes import MAX_PROCESSES, NamedProcesses
from collector.collectors.network.sockets import SocketRow, read_socket, socket_inode
from collector.host.files import OpenFd
from collector.host.guarded_read import ExhaustedError, Guard, WedgedError
from collector.host.procfs import Process, ReplacedError
from collector.host.read_errors import ReadErrors
from collector.model.artifact import Artifact, Footprint, HeldUse, NotApplicable, SourceInfo, Truncated
from collector.model.errors import StepError
from collector.model.marker import MarkerKind
from collector.model.pressure import StepClass
from collector.model.text import json, jsonl
from collector.model.units import Seconds

# Of all processes. Each leaves the link that is read in the kernel's caches, 0.95 KB, until its process has ended.
MAX_FDS = 8192
# Sockets per hand-over to the helper thread: 5,001 took 0.27 s of CPU one by one.
BATCH = 64
HELD_SHARE = 0.25
"""Of the time for which a process is held, the part after which a socket that does not answer is given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """
    List the sockets of the processes that the marker names, and copy the counters of their network namespaces.

    Args:
        max_sockets: Maximum number of sockets listed; those in which most is waiting.
        read_timeout: Deadline for one socket, whose lock the process can hold indefinitely.
    """

    name: ClassVar[str] = "network"
    footprint: ClassVar[Footprint] = Footprint(
        step_class=StepClass.LIGHT, peak_bytes=8 << 20, timeout_s=10.0, held=HeldUse.READ
    )
    max_sockets: int = 1024
    read_timeout: Seconds = Seconds(1.0)

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """
        Yield the counters, of the host's namespace if there is no process; then the sockets.

        Raises:
            StepError: At the end, if a PID of the marker belongs to another process.
            Truncated: At the end, if a process given by hand is gone, or there are too many.
            NotApplicable: At the end, if the marker is about no process, or its process had ended.
        """
        unread = ReadErrors()
        with ExitStack() as stack:
            named = NamedProcesses.of(ctx.host, ctx.marker, stack)
            yield from counters(ctx.host, named.found, unread)
            if named.found:
                yield from self._sockets(ctx, named.found, unread)
        yield from unread.artifacts()
        if named.replaced:
            raise StepError("; ".join(named.replaced), hint="the crashed process is gone; its sockets are closed")
        missing = named.ended if ctx.marker.kind is MarkerKind.MANUAL else []
        if named.left_out:
            missing = [*missing, f"{named.left_out} more than {MAX_PROCESSES} processes"]
        if missing:
            raise Truncated("; ".join(missing))
        if not named.found:
            unknown = "no process that is known for certain: it has no sockets"
            nobody = about_nobody(ctx.marker) if names_nobody(ctx.marker) else unknown
            raise NotApplicable("; ".join(named.ended) or nobody)

    def _sockets(self, ctx: Context, found: list[Process], unread: ReadErrors) -> Iterator[Artifact]:
        """Yield the sockets in which most is waiting, and how many there are of each kind."""
        patience_s = self.read_timeout if ctx.held is None else min(self.read_timeout, HELD_SHARE * ctx.remaining_s())
        kinds: Counter[str] = Counter()
        missing: list[str] = []
        with closing(Guard(patience_s)) as guard:
            share = MAX_FDS // len(found)
            rows = (row for process in found for row in _of_process(ctx, process, share, guard, unread, missing))
            chosen = heapq.nlargest(self.max_sockets, _counted(rows, kinds), key=lambda row: row.waiting)
        if kinds.total() > len(chosen):
            missing.append(f"only {len(chosen)} of {kinds.total()} sockets are listed (max_sockets)")
        source = SourceInfo(path=f"/proc/{found[0].pid}/fd")
        body = jsonl(chosen, cut="; ".join(missing) or None)
        yield Artifact(path=PurePosixPath("sockets.jsonl"), body=body, source=source, media="jsonl")
        yield Artifact(path=PurePosixPath("kinds.json"), body=json(dict(kinds.most_common())), media="json")


def _counted(rows: Iterator[SocketRow], kinds: Counter[str]) -> Iterator[SocketRow]:
    for row in rows:
        kinds[" ".join(filter(None, (row.family, row.protocol or row.type, row.state)))] += 1
        yield row


def _of_process(  # noqa: PLR0917 - what one process needs
    ctx: Context, process: Process, most_fds: int, guard: Guard, unread: ReadErrors, missing: list[str]
) -> Iterator[SocketRow]:
    """Yield a process's sockets, each once, as long as it is this process; add to *missing* why some are not there."""
    try:
        sockets = list(_sockets_of(process, most_fds, missing))
        while sockets:
            if ctx.remaining_s() < guard.longest_s:
                missing.append("the step's time was used up")
                return
            rows: list[SocketRow | None] = []
            try:
                guard.call_many(partial(_read, process), sockets[:BATCH], rows)
            except ExhaustedError as exc:
                missing.append(str(exc))
                return
            except WedgedError as exc:
                stuck = sockets[len(rows)]
                unread.add(f"/proc/{process.pid}/fd/{stuck}", exc)
                missing.append(f"socket {stuck} of process {process.pid}: {exc}")
                rows.append(None)
            process.check()
            yield from (row for row in rows if row is not None)
            sockets = sockets[len(rows) :]
    except (ReplacedError, ProcessLookupError) as exc:
        missing.append(str(exc))
    except OSError as exc:  # for all of them alike: without the permission, or once it has none
        missing.append(f"sockets of process {process.pid}: {exc.strerror}")


def _read(process: Process, fd: int) -> SocketRow | None:
    """Return a socket's row; ``None`` if it was closed meanwhile."""
    try:
        return read_socket(process, fd)
    except OSError as exc:
        if exc.errno == errno.EBADF:
            return None
        raise


def _sockets_of(process: Process, most_fds: int, missing: list[str]) -> Iterator[int]:
    """Yield a descriptor of each socket."""
    seen: set[int] = set()
    for fd in _descriptors(process, most_fds, missing):
        inode = socket_inode(process, fd)
        if inode is not None and inode not in seen:
            seen.add(inode)
            yield fd


def _descriptors(process: Process, most: int, missing: list[str]) -> Iterator[int]:
    """Yield the numbers of a process's descriptors, at most *most*."""
    try:
        directory = process.open("fd")
    except OSError as exc:
        missing.append(f"/proc/{process.pid}/fd: {exc.strerror}")
        return
    with OpenFd(directory), os.scandir(directory) as entries:
        yield from (int(entry.name) for entry in islice(entries, most))
        if next(entries, None) is not None:
            missing.append(f"only the first {most} descriptors of process {process.pid} were looked at")
