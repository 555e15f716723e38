"""A marker: one piece of evidence that something crashed."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping

import msgspec

MARKER_BYTES = 16_384
"""Longest encoding of a marker, in the ledger and in an incident; an ordinary one takes 0.5 KiB."""

SHORTENED = "shortened"
"""The attribute that says how a marker was shortened."""

IDENTITY = "identity"
"""The attribute by which a marker without a core is recognized; from its trigger, and never shortened."""

DYING_AT = "dying_at_s"
"""The attribute with the time, since the epoch, at which the kernel announced a process's end."""


SYSTEM_UNIT = "system_unit"
"""
The attribute with the system's unit that a process belongs to, as the kernel or root says. Keys in lower case are the
program's own: what others report has keys in capitals.
"""


CGROUP = "cgroup"
"""
The attribute with the cgroups that a process is in, one ``CONTROLLERS:INODE:PATH`` a line, as the kernel says. Another
cgroup of the same path, such as that of the unit once it runs again, has another inode.
"""

OOM_CGROUP = "oom_cgroup"
"""The attribute with the memory cgroup of a process that the kernel killed, as its log says, in the same form."""


DUMP = "dump"
"""
The attribute of a crash whose core the kernel offers to send: `HELD_DUMP` while it holds the process for that, else why
it was refused.
"""

HELD_DUMP = "held"


class MarkerKind(enum.StrEnum):
    """What sort of evidence a marker is."""

    CORE_FILE = "core_file"
    DUMP = "dump"
    EXIT = "exit"
    KERNEL_LOG = "kernel_log"
    PRESSURE = "pressure"
    NOTIFICATION = "notification"
    MANUAL = "manual"


class ProcessRef(msgspec.Struct, frozen=True, kw_only=True):
    """
    A process, told apart from later ones with the same PID by its start time.

    *start_time_ticks* is field 22 of ``/proc/PID/stat`` (clock ticks since boot); ``None`` where
    the source of the marker could not know it. Source: proc_pid_stat(5).
    """

    pid: int
    start_time_ticks: int | None = None


class CoreRef(msgspec.Struct, frozen=True, kw_only=True):
    """
    A core file as it was when it was noticed; device, inode and *head* show whether it was replaced since.

    *head* is the length and a hash of its beginning; empty if it could not be read without waiting for a disk.
    *whole_bytes* is how long its ELF headers say it is, 0 if that is not known. *handle* leads to it wherever it is
    moved within its file system. *watched* are other directories of the trigger, to which it may be moved.
    """

    path: str
    device: int
    inode: int
    size_bytes: int
    mtime_ns: int
    uid: int
    head: str = ""
    whole_bytes: int = 0
    handle: str = ""
    watched: tuple[str, ...] = ()


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """
    Why an incident was opened.

    All text fields may come from an attacker: they are data and never form a path or a command.
    Times are seconds since the epoch, wall clock, a label only.
    *attributes* holds whatever else the source reported; ``parent`` is the PID of the process's parent.
    *joined* holds the ids of the other triggers that saw the same crash, where several markers are merged into one.
    *process* is the thread group by its number here, *thread* the thread that crashed, *thread_comm* its name if that
    is another, *inner_pid* the process's number in its own PID namespace; *image* stands for its addresses in memory.
    With *doubtful*, *process* is only what a name or an ordinary user claimed. *noticed_ticks* is when it was noticed,
    in clock ticks since boot. *attributed* is false if nothing shows that it is about the crash of its incident, and
    nothing that it is not.
    *refused* is why its source may not be trusted: the marker is recorded, and nothing is collected.
    """

    kind: MarkerKind
    trigger: str
    at_s: float
    reason: str = ""
    process: ProcessRef | None = None
    thread: int | None = None
    inner_pid: int | None = None
    image: str | None = None
    doubtful: bool = False
    comm: str | None = None
    thread_comm: str | None = None
    exe: str | None = None
    uid: int | None = None
    signal: int | None = None
    exit_status: int | None = None
    unit: str | None = None
    core: CoreRef | None = None
    also: tuple[ProcessRef, ...] = ()
    joined: tuple[str, ...] = ()
    attributes: dict[str, str] = {}
    refused: str | None = None
    noticed_ticks: int | None = None
    attributed: bool = True


def of_another_namespace(marker: Marker, pid: int, why: str) -> Marker:
    """Return *marker*, saying in its reason that *pid* is not known to be a number of this machine, and *why*."""
    said = f"{marker.reason}; its PID {pid} {why}: which process of this machine that was is not known"
    return msgspec.structs.replace(marker, reason=said.removeprefix("; "), inner_pid=marker.inner_pid or pid)


def unnamed(marker: Marker) -> str:
    """Return why a marker that is about a process names none."""
    if marker.inner_pid is None:
        return "the marker names no process"
    return f"the marker names no process of this machine: PID {marker.inner_pid} is of its own PID namespace, or reused"


def dump_ended(marker: Marker, reason: str) -> Marker:
    """Return *marker* without its claim that the kernel holds the process: it does not any more, and this is why."""
    if marker.attributes.get(DUMP) != HELD_DUMP:
        return marker
    return msgspec.structs.replace(marker, attributes=marker.attributes | {DUMP: reason})


_encode = msgspec.json.Encoder().encode
_LENGTHS = (2048, 1024, 512, 256, 128, 64, 32, 16)
_MOST = 64
"""Attributes, and processes beside the first, that a marker keeps which is too long."""


def shortened(marker: Marker) -> Marker:
    """
    Return *marker*, its longest texts cut as far as it takes to encode it in `MARKER_BYTES`.

    Backslashes double in JSON: 62 KiB of escapes in an exit file once became a marker of 1 MiB.
    """
    cut = marker
    for length in _LENGTHS:
        if len(_encode(cut)) <= MARKER_BYTES:
            break
        cut = _cut(marker, length)
    return cut


def _cut(marker: Marker, length: int) -> Marker:
    core = marker.core
    if core is not None:
        watched = tuple(path for path in core.watched[:_MOST] if len(path) <= length)
        core = msgspec.structs.replace(core, watched=watched, **_cut_texts(core, ("path", "head", "handle"), length))
    texts = ("reason", "comm", "thread_comm", "exe", "unit", "image", "refused")
    return msgspec.structs.replace(
        marker,
        core=core,
        also=marker.also[:_MOST],
        joined=tuple(name[:length] for name in marker.joined[:_MOST]),
        attributes=_cut_values(marker.attributes, length) | {SHORTENED: f"texts longer than {length} characters"},
        **_cut_texts(marker, texts, length),
    )


def _cut_values(attributes: Mapping[str, str], length: int) -> dict[str, str]:
    kept = list(attributes.items())[:_MOST]
    kept += [(IDENTITY, attributes[IDENTITY])] if IDENTITY in attributes else []
    return {key[:_MOST]: value if key == IDENTITY else value[:length] for key, value in kept}


def _cut_texts(owner: msgspec.Struct, names: Iterable[str], length: int) -> dict[str, str]:
    """Return the fields that have to be cut."""
    texts = {name: getattr(owner, name) for name in names}
    return {name: text[:length] for name, text in texts.items() if text and len(text) > length}
