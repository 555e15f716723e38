"""Disks with what is in flight, their queues, and how full the file systems are."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import PurePosixPath
from typing import ClassVar, TypeVar

from collector.collectors.base import Context
from collector.collectors.block.disks import FOLDER, DiskRow, disk_names, settings_of, state_of
from collector.collectors.block.mounts import FileSystemRow, Mount, ask, file_systems, parse_mounts
from collector.host.files import Host, body
from collector.host.guarded_read import ExhaustedError, Guard, WedgedError
from collector.host.read_errors import ReadErrors
from collector.model.artifact import Artifact, Footprint, SourceInfo, Truncated
from collector.model.errors import StepError
from collector.model.pressure import StepClass
from collector.model.text import jsonl
from collector.model.units import Seconds

R = TypeVar("R")
# A name that is looked up in sysfs stays in the kernel's caches, 0.95 KB: 9 of each disk, 20 more of each queue.
MAX_DISKS = 512
MAX_QUEUES = 128
MAX_MOUNTS = 4096
MOUNTINFO_BYTES = 2 << 20
MOUNTINFO = ("/proc/1/mountinfo", "/proc/self/mountinfo")


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """
    List disks and their queues, mounts, and how full the file systems are that can say so without a server.

    Args:
        read_timeout: Deadline for the settings of one disk, and for one file system.
    """

    name: ClassVar[str] = "block"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.LIGHT, peak_bytes=8 << 20, timeout_s=10.0)
    read_timeout: Seconds = Seconds(1.0)

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """Yield what cannot hang: what is in flight, and the mounts; then what can: their use, and queues."""
        unread = ReadErrors()
        names = self._names(ctx.host)
        states = [row for name in names[:MAX_DISKS] if (row := state_of(ctx.host, name)).is_used]
        cut = f"only {MAX_DISKS} of {len(names)} disks were read" if len(names) > MAX_DISKS else None
        sysfs = SourceInfo(path=FOLDER)
        yield Artifact(path=PurePosixPath("disks.jsonl"), body=jsonl(states, cut=cut), source=sysfs, media="jsonl")
        yield from _mountinfo(ctx.host, unread)
        with closing(Guard(self.read_timeout)) as guard:
            rows = _file_system_rows(ctx, guard, unread)
            yield Artifact(path=PurePosixPath("filesystems.jsonl"), body=jsonl(rows), media="jsonl")
            queues = jsonl(_queues(ctx, states, guard, unread))
            yield Artifact(path=PurePosixPath("queues.jsonl"), body=queues, source=sysfs, media="jsonl")
        yield from unread.artifacts()

    def _names(self, host: Host) -> list[str]:
        try:
            return disk_names(host)
        except OSError as exc:
            raise StepError(f"{FOLDER}: {exc.strerror}", hint="is /sys mounted?") from exc


def _mountinfo(host: Host, unread: ReadErrors) -> Iterator[Artifact]:
    """Yield the first process's mounts: this one's have what its sandbox mounts over them."""
    path = MOUNTINFO[0]
    try:
        content = body(host.open(path), limit=MOUNTINFO_BYTES)
    except OSError as exc:
        unread.add(path, exc)
        return
    yield Artifact(path=PurePosixPath("mountinfo"), body=content, source=SourceInfo(path=path))


def _file_system_rows(ctx: Context, guard: Guard, unread: ReadErrors) -> Iterator[FileSystemRow]:
    try:
        text = ctx.host.read(MOUNTINFO[1], limit=MOUNTINFO_BYTES)
    except OSError as exc:
        raise Truncated(f"{MOUNTINFO[1]}: {exc.strerror}") from exc
    whole, _, cut_off = text.rpartition(b"\n")
    mounts = list(islice(parse_mounts(whole), MAX_MOUNTS + 1))
    pairs = file_systems(mounts[:MAX_MOUNTS])

    def asked(pair: tuple[FileSystemRow, Mount | None]) -> FileSystemRow:
        return pair[0] if pair[1] is None else ask(ctx.host, pair[0], pair[1])

    yield from _guarded(ctx, guard, unread, ((pair[0].path, pair[0], partial(asked, pair)) for pair in pairs))
    if len(mounts) > MAX_MOUNTS or cut_off:
        raise Truncated(f"only the first {min(len(mounts), MAX_MOUNTS)} mounts were looked at")


def _queues(ctx: Context, states: list[DiskRow], guard: Guard, unread: ReadErrors) -> Iterator[DiskRow]:
    """Yield the settings of the busiest disks."""
    chosen = heapq.nlargest(MAX_QUEUES, states, key=lambda row: row.busy)
    calls = ((f"{FOLDER}/{row.name}/queue", None, partial(settings_of, ctx.host, row.name)) for row in chosen)
    yield from (row for row in _guarded(ctx, guard, unread, calls) if row is not None)
    if len(states) > MAX_QUEUES:
        raise Truncated(f"only the queues of the {MAX_QUEUES} busiest of {len(states)} disks were read")


def _guarded(
    ctx: Context, guard: Guard, unread: ReadErrors, calls: Iterable[tuple[str, R, Callable[[], R]]]
) -> Iterator[R]:
    """
    Yield what each call returns; if it fails, what stands for it.

    Raises:
        Truncated: At the end, if one did not return in time, or there was no time for it.
    """
    wedged: list[str] = []
    for path, instead, call in calls:
        if ctx.remaining_s() < guard.longest_s:
            raise Truncated("the step's time was used up")
        try:
            yield guard.call(call)
        except ExhaustedError as exc:
            raise Truncated(str(exc)) from exc
        except (OSError, WedgedError) as exc:
            unread.add(path, exc)
            if isinstance(exc, WedgedError):
                wedged.append(path)
            yield instead
    if wedged:
        raise Truncated(f"not read in time: {wedged[0]}" + (f" and {len(wedged) - 1} more" if wedged[1:] else ""))
