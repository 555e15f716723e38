"""Which segments a process has: those that its core lists if it is dead, else what it has mapped or open."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import NamedTuple

from collector.collectors.shm.open_segments import of_descriptors
from collector.collectors.shm.segment_names import Mapped, segment_name
from collector.host.corefile import mapped_files, open_core
from collector.host.elfcore import MappedFile
from collector.host.files import Host, OpenFd
from collector.host.guarded_read import Guard
from collector.host.maps import parse_maps
from collector.host.procfs import Process
from collector.host.read_errors import ReadErrors
from collector.model.artifact import Truncated
from collector.model.errors import StepError
from collector.model.identity import HOST_MOUNTS
from collector.model.marker import CoreRef, Marker, unnamed
from collector.model.segments import OPENED, OWN

MAX_MAPS_BYTES = 64 << 20
MAX_OWN = 4096
NOTHING = Mapped(path=b"")


def of_core(host: Host, core: CoreRef) -> Iterator[Mapped]:
    """
    Yield the files that the core lists, or the Apport report that contains it.

    Raises:
        StepError: If the core is gone, was replaced or is not one.
        Truncated: At the end, if the list was cut off.
    """
    with OpenFd(open_core(host, core)) as fd:
        yield from map(_mapped, mapped_files(fd))


def reader_of(marker: Marker) -> Reader | None:
    """Return who must be able to read what the marker's core names: its owner may have written anything into it."""
    core = marker.core
    if core is None or (core.uid == 0 and marker.uid in {None, 0}):
        return None
    return Reader(core.uid or marker.uid or 0, None)


def of_process(process: Process, guard: Guard) -> Iterator[Mapped]:
    """
    Yield the files that a live process has mapped.

    Raises:
        StepError: If the process holds its own locks too long, or the PID is another process's by now; what was
            yielded before is valid.
        OSError: If its ``maps`` may not be read, or it has none any more.
        Truncated: At the end, if reading failed midway, or it is longer than `MAX_MAPS_BYTES`.
    """
    content = process.stream("maps", limit=MAX_MAPS_BYTES, guard=guard)
    if not content:  # it is exiting, or a zombie: its memory is gone
        raise ProcessLookupError(errno.ESRCH, "its mappings are gone: it is exiting")
    yield from map(_mapped, parse_maps(_lines((content,) if isinstance(content, bytes) else content)))


def _mapped(file: MappedFile) -> Mapped:
    return Mapped(path=file.path, device=file.device, inode=file.inode, link=f"map_files/{file.addresses}")


class Reader(NamedTuple):
    """Who a file is read as."""

    uid: int
    gid: int | None

    def may_read(self, status: os.stat_result) -> bool:
        """Return whether the mode permits it; supplementary groups are not known."""
        if self.uid in {0, status.st_uid}:
            return self.uid == 0 or bool(status.st_mode & stat.S_IRUSR)
        return bool(status.st_mode & (stat.S_IRGRP if self.gid == status.st_gid else stat.S_IROTH))


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSegment:
    """
    A segment that the crashed process has mapped or open; *holder* is that process if it lives.

    Without one there is only a name, in a core. *confirmed*: the process was seen in the mount namespace in which the
    name is looked up. *reader* is who must be able to read a segment that only a name makes the crash's.
    """

    name: str
    mapped: Mapped
    holder: Process | None = None
    confirmed: bool = True
    reader: Reader | None = None

    @property
    def why(self) -> str:
        return OPENED if self.mapped.link.startswith("fd/") else OWN


# Name, device and inode; the latter two are known only from maps. The name alone may be another file's by
# now, and the device may be that of another container's /dev/shm.
Key = tuple[str, int | None, int | None]


def own_segments(
    host: Host, marker: Marker, stack: ExitStack, guard: Guard, unread: ReadErrors
) -> tuple[dict[Key, OwnSegment], str]:
    """
    Return the segments that the marker's processes have, or had, and why that is not all of them, if so.

    The core tells, and each process while it lives; with neither, nothing is known.
    Live processes stay open until *stack* is closed. Failures are recorded in *unread*.
    """
    own: dict[Key, OwnSegment] = {}
    unknown: list[str] = []
    if marker.core is not None:
        try:
            confirmed = marker.attributes.get("mount_namespace") == HOST_MOUNTS
            found = OwnSegment(name="", mapped=NOTHING, confirmed=confirmed, reader=reader_of(marker))
            _add(own, of_core(host, marker.core), found)
        except (OSError, StepError, Truncated) as exc:
            unread.add(marker.core.path, exc)
            unknown.append(str(exc))
    by_core = marker.core is not None and not unknown
    by_process = False
    for reference in (marker.process, *marker.also):
        if reference is None:
            continue
        if reference.start_time_ticks is None:
            unknown.append(f"process {reference.pid} was not seen alive")
            continue
        reading = f"/proc/{reference.pid}/maps"
        try:
            process = stack.enter_context(Process(host, reference.pid, reference.start_time_ticks))
            found = OwnSegment(name="", mapped=NOTHING, holder=process)
            _add(own, of_process(process, guard), found)
            reading = f"/proc/{reference.pid}/fd"
            _add(own, of_descriptors(process), found)
            by_process = True
        except (OSError, StepError, Truncated) as exc:
            why = exc.strerror if isinstance(exc, OSError) else exc
            unknown.append(f"process {reference.pid}: {why}")
            # If there is a core, it has already listed the mappings of a dead process.
            if marker.core is None or not isinstance(exc, ProcessLookupError):
                unread.add(reading, exc)
    if by_core or (by_process and (marker.core is not None or not unknown)):
        return own, ""
    return own, "; ".join(unknown) or unnamed(marker)


def _add(own: dict[Key, OwnSegment], files: Iterable[Mapped], like: OwnSegment) -> None:
    """Add those of *files* that are segments, *like* the given one but for name and mapping."""
    for mapped in files:
        name = segment_name(mapped.path, nameless=like.holder is not None)
        key = (name or "", mapped.device, mapped.inode)
        if name is None or key in own:
            continue
        if len(own) == MAX_OWN:
            raise StepError(f"more than {MAX_OWN} segments are mapped; the rest are ignored")
        own[key] = replace(like, name=name, mapped=mapped)


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    carry = b""
    for piece in pieces:
        *lines, carry = (carry + piece).split(b"\n")
        yield from lines
    if carry:
        yield carry
