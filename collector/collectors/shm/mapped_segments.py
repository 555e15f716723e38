"""Which segments a process has mapped: a dead one by its core, a live one by its ``maps``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from collector.collectors.shm.listing import ROOT, Mapped, parse_maps, parse_note_path
from collector.host import filesystem
from collector.host.corefile import core_reader, open_core
from collector.host.corenotes import mapped_files
from collector.host.elfcore import NT_FILE, notes
from collector.host.files import READ_FLAGS, Host
from collector.host.guarded_read import Guard
from collector.host.processfiles import read_file
from collector.host.procfs import Process
from collector.host.read_errors import Unreads
from collector.model.artifact import Truncated
from collector.model.errors import StepError
from collector.model.marker import CoreRef, Marker

MAX_MAPS_BYTES = 64 << 20
MAX_OWN = 4096


def of_core(host: Host, core: CoreRef) -> Iterator[Mapped]:
    """
    Yield the files that the core's NT_FILE note names.

    Raises:
        StepError: If the core is gone, was replaced, or is none; at the end, if the list was cut off.
    """
    fd = open_core(host, core)
    try:
        header, found = notes(core_reader(fd))
        for note in found:
            if note.type == NT_FILE:
                yield from (parse_note_path(file.path) for file in mapped_files(header.layout, note.desc))
                if note.size_bytes > len(note.desc):
                    raise StepError(f"only the first {len(note.desc)} bytes of the list of mapped files were read")
    finally:
        os.close(fd)


def of_process(process: Process, guard: Guard) -> Iterator[Mapped]:
    """
    Yield the files that a live process has mapped.

    Raises:
        StepError: If the process holds its own locks for too long, or is another one by now; what was
            yielded before is its own.
        OSError: If its ``maps`` may not be read.
    """
    content = read_file(process, "maps", limit=MAX_MAPS_BYTES, guard=guard)
    try:
        yield from parse_maps(_lines((content,) if isinstance(content, bytes) else content))
    except Truncated as cut:
        raise StepError(cut.reason) from cut


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """A segment that the crashed process has mapped, its name, and that process if it lives."""

    name: str
    mapped: Mapped
    holder: Process | None = None


# Name, device, inode; the latter two only where the process lives. A name alone may by now be
# another file's, and a device another container's /dev/shm.
Key = tuple[str, int | None, int | None]


def own_segments(host: Host, marker: Marker, stack: ExitStack, guard: Guard, unread: Unreads) -> dict[Key, Own]:
    """
    Return the segments that the marker's processes have, or had, mapped.

    Live processes stay open until *stack* is closed. What cannot be found out is recorded.
    """
    own: dict[Key, Own] = {}
    if marker.core is not None:
        try:
            _add(own, of_core(host, marker.core), None)
        except (OSError, StepError) as exc:
            unread.add(marker.core.path, exc)
    for reference in (marker.process, *marker.also):
        if reference is None:
            continue
        try:
            process = stack.enter_context(
                Process(host, reference.pid, reference.start_time_ticks, lived_at_s=marker.at_s)
            )
            _add(own, of_process(process, guard), process)
        except (OSError, StepError) as exc:
            # A process that is dead is no news where its core has told already.
            if marker.core is None or not isinstance(exc, ProcessLookupError):
                unread.add(f"/proc/{reference.pid}/maps", exc)
    return own


def _add(own: dict[Key, Own], files: Iterable[Mapped], holder: Process | None) -> None:
    for mapped in files:
        name = segment_name(mapped)
        key = (name or "", mapped.device, mapped.inode)
        if name is None or key in own:
            continue
        if len(own) == MAX_OWN:
            raise StepError(f"more than {MAX_OWN} segments are mapped; the rest is not looked for")
        own[key] = Own(name=name, mapped=mapped, holder=holder)


def open_mapped(process: Process, guard: Guard, mapped: Mapped) -> int:
    """
    Open a file that has no name here through the mapping of a process that holds it.

    No path is resolved: the link leads to the mapped inode itself, whatever tree the process lives in.
    Source: proc_pid_map_files(5); needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE.

    Raises:
        StepError: If the lock that this takes is held for too long, or the file is no segment: the
            process may have mounted a file system of its own making over its ``/dev/shm``.
        OSError: As open(2) gives it.
    """
    name = f"map_files/{mapped.addresses}"
    fd = guard.call(partial(os.open, name, READ_FLAGS | os.O_NONBLOCK, dir_fd=process.dir_fd))
    if filesystem.kind(fd) != filesystem.TMPFS:
        os.close(fd)
        raise StepError("it is not on a tmpfs")
    return fd


def segment_name(mapped: Mapped) -> str | None:
    """Return a mapped file's name below ``/dev/shm``; ``None`` if it is none, or would lead out of it."""
    prefix = os.fsencode(ROOT) + b"/"
    if not mapped.path.startswith(prefix):
        return None
    name = mapped.path.removeprefix(prefix)
    parts = name.split(b"/")
    return None if b"" in parts or b".." in parts or b"." in parts else os.fsdecode(name)


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    carry = b""
    for piece in pieces:
        *lines, carry = (carry + piece).split(b"\n")
        yield from lines
    if carry:
        yield carry
