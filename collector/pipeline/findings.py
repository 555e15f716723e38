"""What bulk steps would find on this machine now, for a crash that has not happened yet."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterable, Iterator
from contextlib import closing

from collector.collectors.base import Collector
from collector.collectors.core import Core, Keep
from collector.collectors.files import Files
from collector.collectors.shm import From, Shm
from collector.host.deadline import Guard
from collector.host.files import Host
from collector.host.globs import expand
from collector.host.mapped import of_process, segment_name
from collector.host.procfs import Process, pids
from collector.host.shm import ROOT, Entry, walk
from collector.host.unread import Unreads
from collector.model.errors import StepError
from collector.model.marker import Marker
from collector.pipeline.explain import Finding, Match
from collector.pipeline.steps import Pipeline

# A crash described by its command name stands for the processes of that name that live now.
MAX_PROCESSES = 64
READ_TIMEOUT_S = 1.0


def findings(pipeline: Pipeline, marker: Marker, host: Host) -> dict[str, Finding]:
    """Return what each bulk step of *pipeline* would take, by the step's id."""
    found = ((step.id, _finding(step.collector, marker, host)) for step in pipeline.steps)
    return {name: finding for name, finding in found if finding is not None}


def _finding(collector: Collector, marker: Marker, host: Host) -> Finding | None:
    match collector:
        case Shm():
            return _segments(collector, marker, host)
        case Files():
            return _files(collector, host)
        case Core() if collector.keep is Keep.COPY:
            return Finding(unknown="the size of the core")
    return None


def _segments(shm: Shm, marker: Marker, host: Host) -> Finding:
    """Return the segments that globs name, and those that the described processes have mapped."""
    own: set[str] = set()
    unknown = None
    if shm.from_ is From.CRASHED_PROCESS:
        alive = list(_described(marker, host))
        own = {name for pid in alive for name in mapped_segments(host, pid)}
        unknown = None if alive else "the segments that the crashed process had mapped"
    chosen = [entry for entry in _entries(host) if _is_chosen(shm, entry.name, own)][: shm.max_segments]
    matches = tuple(
        Match(
            name=f"{ROOT}/{entry.name}",
            size_bytes=entry.size_bytes,
            data_bytes=entry.data_bytes,
            bytes_to_copy=min(entry.data_bytes, shm.max_each if shm.max_each is not None else entry.data_bytes),
        )
        for entry in chosen
    )
    return Finding(matches=matches, disk_bytes=_capped(matches, shm.max_total), unknown=unknown)


def _is_chosen(shm: Shm, name: str, own: set[str]) -> bool:
    wanted = name in own or any(fnmatch.fnmatchcase(name, glob) for glob in shm.segments)
    return wanted and not any(fnmatch.fnmatchcase(name, glob) for glob in shm.exclude)


def _entries(host: Host) -> Iterator[Entry]:
    try:
        fd = os.open(host.path(ROOT), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        yield from (entry for entry in walk(fd, Unreads()) if entry.kind == "regular file")
    finally:
        os.close(fd)


def _described(marker: Marker, host: Host) -> Iterator[int]:
    """Yield the processes that live now and would leave such a marker if they crashed."""
    if marker.process is not None:
        yield marker.process.pid
    elif marker.comm is not None or marker.exe is not None:
        left = MAX_PROCESSES
        for pid in pids(host):
            if left and _fits(host, pid, marker):
                left -= 1
                yield pid


def _fits(host: Host, pid: int, marker: Marker) -> bool:
    try:
        with Process(host, pid) as process:
            comm = process.read("comm", limit=64).rstrip(b"\n").decode("utf-8", "surrogateescape")
            return marker.comm in (None, comm) and (marker.exe is None or process.link("exe") == marker.exe)
    except (OSError, StepError):
        return False  # it ended meanwhile, or is a kernel thread, or somebody else's


def mapped_segments(host: Host, pid: int) -> set[str]:
    """Return the names of the segments that a live process has mapped; none if that may not be read."""
    try:
        with Process(host, pid) as process, closing(Guard(READ_TIMEOUT_S)) as guard:
            return {name for mapped in of_process(process, guard) if (name := segment_name(mapped)) is not None}
    except (OSError, StepError):
        return set()


def _files(files: Files, host: Host) -> Finding:
    unread = Unreads()
    found = [entry for glob in files.paths for entry in expand(host, glob, unread)]
    newest = sorted(found, key=lambda entry: entry.status.st_mtime_ns, reverse=True)[: files.max_files]
    matches = tuple(
        Match(
            name=entry.path,
            size_bytes=entry.status.st_size,
            data_bytes=min(entry.status.st_size, 512 * entry.status.st_blocks),
            bytes_to_copy=min(entry.status.st_size, files.max_bytes),
        )
        for entry in newest
    )
    return Finding(matches=matches, disk_bytes=_capped(matches, files.max_total))


def _capped(matches: Iterable[Match], most: int | None) -> int:
    total = sum(match.bytes_to_copy for match in matches)
    return total if most is None else min(total, most)
