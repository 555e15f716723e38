"""This process's memory locks, priorities and limits."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from typing import NoReturn

import psutil

from collector.host.files import OpenFd
from collector.host.syscalls import call, syscall

MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4  # mlockall(2)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME = 1, 4, 15  # prctl(2)
PROCESS_MRELEASE = 448  # all architectures; Linux 5.15
URGENT_NICE = -15
"""Beside eight busy loops on two cores, 30 ms of work take 60 ms at this; at nice 15 they took 5 to 7 s."""
IO_CLASSES = {"best-effort": psutil.IOPRIO_CLASS_BE, "idle": psutil.IOPRIO_CLASS_IDLE}


def lock_memory(*, future: bool) -> bool:
    """
    Lock this process's mappings as their pages are faulted in; return whether that succeeded.

    *future* also locks later mappings: not for a process that maps segments, because it would lock those too.
    """
    flags = MCL_CURRENT | MCL_ONFAULT | (MCL_FUTURE if future else 0)
    try:
        call("mlockall", flags)
    except OSError:
        return False  # RLIMIT_MEMLOCK is 8 MiB without CAP_IPC_LOCK
    return True


def die_with_parent() -> None:
    """Request SIGKILL when the parent dies: a worker must not write to an incident that a new daemon seals."""
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def die_as_parent_did() -> NoReturn:
    """
    Die now, not when the kernel gets round to `die_with_parent`.

    A dying process closes its sockets before that: there is time to finish a sentence that nobody asked for.
    """
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("SIGKILL cannot be ignored")


def set_name(name: str) -> None:
    """Set this process's comm, cut at 15 bytes."""
    call("prctl", PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def never_dump() -> None:
    """Disable core dumps: this process holds other processes' memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.geteuid() == 0:  # otherwise /proc/self/fd would belong to root
        call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)


def release_memory(pid: int) -> None:
    """
    Free the memory of a killed process that hangs in the kernel; measured: all of 70 MiB, locked or not.

    Waits for the process's ``mmap_lock``.

    Raises:
        OSError: ``EINVAL`` if it was not killed, ``ESRCH`` if it is gone, ``ENOSYS`` before Linux 5.15.

    Source: process_mrelease(2).
    """
    with OpenFd(os.pidfd_open(pid)) as pidfd:
        syscall(PROCESS_MRELEASE, pidfd, 0)


def data_bytes() -> int:
    """Return the private writable memory of this process, as RLIMIT_DATA counts it (``VmData``)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[5]) * resource.getpagesize()


OOM_LAST = -900
"""Score of the supervisor: whoever else may be killed goes before it."""

OOM_FIRST = 500
"""Score of all that can be lost and made again: a worker costs one step."""


def set_oom_score_adj(value: int) -> bool:
    """Set how likely the OOM killer is to choose this process, -1000 to 1000; lowering it needs CAP_SYS_RESOURCE."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(value))
    except OSError:
        return False
    return True


def be_urgent() -> None:
    """
    Raise the CPU and I/O priority, for about 30 ms of work, never for bulk.

    Applies to the calling thread and those that it starts afterwards. Without CAP_SYS_NICE nothing changes.
    """
    with contextlib.suppress(OSError, psutil.Error):
        os.setpriority(os.PRIO_PROCESS, 0, URGENT_NICE)
        psutil.Process().ionice(psutil.IOPRIO_CLASS_BE, 0)


@contextlib.contextmanager
def in_background(nice: int, io_class: str) -> Iterator[None]:
    """Lower the priorities to *nice* (0 to 19) and *io_class*, then raise them again, which needs CAP_SYS_NICE."""
    # Lowering the nice value would need the capability.
    os.setpriority(os.PRIO_PROCESS, 0, max(nice, os.getpriority(os.PRIO_PROCESS, 0)))
    set_io_class(io_class)
    try:
        yield
    finally:
        be_urgent()


def set_io_class(name: str) -> None:
    """Set the I/O class if *name* is a key of `IO_CLASSES`; the ``none`` scheduler ignores it."""
    if name in IO_CLASSES:
        with contextlib.suppress(OSError):
            psutil.Process().ionice(IO_CLASSES[name])
