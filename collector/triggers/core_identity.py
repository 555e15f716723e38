"""Which process a core is of: what its name and its first notes claim, confirmed by the process while it is there."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from collector.collectors.core.notes import parse_process, parse_thread
from collector.host.corehead import HeadReader
from collector.host.corepattern import CoreName
from collector.host.elfcore import NT_AUXV, NT_PRPSINFO, NT_PRSTATUS, CoreError, notes
from collector.host.files import Host
from collector.host.process_identity import identify_task, image_of, thread_group
from collector.model.identity import Identity, is_the_dead, with_identity
from collector.model.marker import Marker, ProcessRef, of_another_namespace
from collector.model.text import escape

# The kernel writes the notes first: the thread that crashed, process, siginfo, auxiliary vector, mapped files.
FIRST_NOTES = 4


class CoreHead(NamedTuple):
    """What the first notes of a core say; numbers are those of the process's own namespaces, *uid* is the real one."""

    pid: int | None = None
    uid: int | None = None
    thread: int | None = None
    comm: str | None = None
    signal: int | None = None
    image: str | None = None


def core_head(fd: int, head: bytes) -> CoreHead:
    """Read the first notes of an uncompressed core that begins with *head*; know nothing of what is not in memory."""
    found: dict[int, bytes] = {}
    try:
        header, rest = notes(HeadReader(head, fd), segments=1)
        for note, _ in zip(rest, range(FIRST_NOTES), strict=False):
            found.setdefault(note.type, note.desc)
        layout = header.layout
        thread = parse_thread(layout, found.get(NT_PRSTATUS, b""))
        process = parse_process(layout, found.get(NT_PRPSINFO, b""))
    except (OSError, CoreError):
        return CoreHead()
    return CoreHead(
        pid=process.pid if process and process.pid > 0 else None,
        uid=process.uid if process else None,
        thread=thread.tid if thread and thread.tid > 0 else None,
        comm=escape(process.command) if process and process.command else None,
        signal=thread.signal if thread and thread.signal > 0 else None,
        image=image_of(found.get(NT_AUXV, b"")),
    )


def with_process(marker: Marker, said: CoreName, head: CoreHead, host: Host) -> Marker:
    """
    Return the *marker* of a core, naming the process that it is of.

    A process whose core is complete is dying: whoever else lives under its number is somebody else. Who owns the file
    may speak of his own processes only, unless he is root. A number of the process's own PID namespace (``%p``) is no
    host PID, unless a process that is dying confirms it.
    """
    inner_pid = head.pid or said.inner_pid
    thread = said.thread or (head.thread if said.pid is not None and said.pid == head.pid else None)
    comm = head.comm or marker.comm
    marker = msgspec.structs.replace(
        marker,
        inner_pid=inner_pid,
        image=head.image,
        thread=thread,
        comm=comm,
        thread_comm=marker.comm if marker.comm not in {None, comm} else None,
        signal=marker.signal or head.signal,
    )
    pid = said.pid or inner_pid
    if pid is None:
        return marker
    seen = identify_task(host, pid)
    group = thread_group(host, seen) if seen is not None else None
    if group is not None and is_the_dead(group, uid=marker.uid, comm=comm if said.pid is None else None):
        inside = group.inner_pid is None or inner_pid is None or group.inner_pid == inner_pid
        if inside and _has_image(group, head, host, certain=said.pid is not None):
            return with_identity(msgspec.structs.replace(marker, thread=thread or head.thread), group)
    is_root = marker.core is not None and marker.core.uid == 0
    if seen is not None and not is_root and seen.uid != marker.uid:
        marker = msgspec.structs.replace(marker, thread=None, attributes=marker.attributes | {"claimed_pid": str(pid)})
        return of_another_namespace(
            marker, pid, "is a process of another user here, and may be of another PID namespace"
        )
    if group is not None and not group.dying and said.pid is None:
        # Somebody else lives under that number here.
        why = "is one of its own PID namespace, or reused (`%P` in core_pattern is one of this machine)"
        return of_another_namespace(marker, pid, why)
    doubtful = said.pid is None or not is_root
    return msgspec.structs.replace(marker, process=ProcessRef(pid=pid), doubtful=doubtful)


def _has_image(group: Identity, head: CoreHead, host: Host, *, certain: bool) -> bool:
    """Return whether the core can be of *group*; a zombie, whose memory is gone, only if its number is *certain*."""
    seen = identify_task(host, group.pid, image=True)
    image = seen.image if seen is not None else None
    if head.image is None or image is None:
        return certain or head.image is None
    return head.image == image
