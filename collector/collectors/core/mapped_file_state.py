"""What a mapped file was at the crash, as far as that can still be seen."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing

from collector.collectors.base import Context
from collector.collectors.core.diagnosis_facts import CLOCK_STEP_NS, MappedFileState
from collector.host.elfcore import MappedFile
from collector.host.files import OpenFd
from collector.host.filesystem import kind
from collector.host.guarded_read import Guard
from collector.host.held_process import HeldProcess
from collector.host.procfs import Process
from collector.host.syscalls import birth_time_ns
from collector.model.errors import StepError
from collector.model.identity import HOST_MOUNTS
from collector.model.marker import DYING_AT

WAIT_S = 1.0
"""A file may be on a server that does not answer, and the diagnosis is not worth the core."""

PATH = os.O_PATH | os.O_CLOEXEC
DELETED = b" (deleted)"


def state_of_held(ctx: Context, held: HeldProcess, file: MappedFile) -> MappedFileState | None:
    """Return the state of a file that a held process has mapped: whatever its name, and in any mount namespace."""

    def read() -> MappedFileState | None:
        with Process(ctx.host, held.process.pid, held.process.start_time_ticks) as process:
            link = f"map_files/{file.addresses}"
            with OpenFd(os.open(link, PATH, dir_fd=process.whole_fd)) as fd:
                return _state(fd, _announced_ns(ctx))

    return _guarded(read)


def state_by_name(ctx: Context, core_fd: int, file: MappedFile) -> MappedFileState | None:
    """
    Return the state of a file that a core names, if it has not changed since the crash, not even its name.

    A name means the same file only in the same mount namespace. Where the file was replaced before the crash, the
    kernel has put `DELETED` behind its name.
    """
    if ctx.marker.attributes.get("mount_namespace") != HOST_MOUNTS or file.path.endswith(DELETED):
        return None
    path = ctx.host.path(os.fsdecode(file.path))

    def read() -> MappedFileState | None:
        written_ns = birth_time_ns("", core_fd) or os.fstat(core_fd).st_mtime_ns
        with OpenFd(os.open(path, PATH | os.O_NOFOLLOW)) as fd:
            return _state(fd, min(written_ns, _announced_ns(ctx) or written_ns))

    return _guarded(read)


def _announced_ns(ctx: Context) -> int | None:
    """Return when the crash was noticed, by the wall clock, which the times of files are in."""
    dying_s = ctx.marker.attributes.get(DYING_AT)
    return None if dying_s is None else int(float(dying_s) * 1e9)


def _state(fd: int, crashed_ns: int | None) -> MappedFileState | None:
    """
    Return the state of a file; ``None`` if it may be another one than at *crashed_ns*, a moment after the crash.

    What is written to it changes both of its times, a new name only one.
    """
    info, space = os.fstat(fd), os.fstatvfs(fd)
    changed_ns = None if crashed_ns is None else info.st_ctime_ns - crashed_ns
    if crashed_ns is not None and info.st_ctime_ns > crashed_ns:
        born_ns = birth_time_ns("", fd)
        if info.st_ctime_ns != info.st_mtime_ns or born_ns is None or born_ns > crashed_ns - CLOCK_STEP_NS:
            return None
    # A tmpfs without a limit has no blocks, and none free. Source: shmem_statfs() in mm/shmem.c
    free_bytes = space.f_bavail * space.f_frsize if space.f_blocks else None
    return MappedFileState(info.st_size, kind(fd), free_bytes, changed_ns)


def _guarded(read: Callable[[], MappedFileState | None]) -> MappedFileState | None:
    try:
        with closing(Guard(WAIT_S)) as guard:
            return guard.call(read)
    except (OSError, StepError, ValueError):
        return None
