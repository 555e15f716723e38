"""What a process says to the kernel about itself: memory locks, priorities, limits, its end."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Iterator

import psutil

from collector.host.syscalls import call, syscall

MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4  # mlockall(2)
PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NAME = 1, 4, 15  # prctl(2)
PROCESS_MRELEASE = 448  # all architectures; Linux 5.15
URGENT_NICE = -15
"""Beside eight busy loops on two cores, 30 ms of work took 5 to 7 s at nice 15, and take 60 ms at this."""
IO_CLASSES = {"best-effort": psutil.IOPRIO_CLASS_BE, "idle": psutil.IOPRIO_CLASS_IDLE}


def lock_memory(*, future: bool) -> bool:
    """
    Keep in memory what is there, and what will be faulted in; return whether the kernel agreed.

    Args:
        future: Also lock later mappings. Never where segments are mapped: it would lock those.
    """
    flags = MCL_CURRENT | MCL_ONFAULT | (MCL_FUTURE if future else 0)
    try:
        call("mlockall", flags)
    except OSError:
        return False  # RLIMIT_MEMLOCK is 8 MiB without CAP_IPC_LOCK
    return True


def die_with_parent() -> None:
    """Ask for SIGKILL when the parent dies: a worker must not write into what a successor seals."""
    call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def set_name(name: str) -> None:
    """Set what ``ps`` shows as comm, at most 15 bytes."""
    call("prctl", PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def never_dump() -> None:
    """Leave no core of a process that holds other processes' memory."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if os.geteuid() == 0:  # otherwise the own /proc/self/fd would belong to root
        call("prctl", PR_SET_DUMPABLE, 0, 0, 0, 0)


def release_memory(pid: int) -> None:
    """
    Free the memory of a process that was killed and hangs in the kernel; measured: 70 MiB to none, locked or not.

    Raises:
        OSError: ``EINVAL`` if it was not killed, ``ESRCH`` if it is gone, ``ENOSYS`` before Linux 5.15.

    Source: process_mrelease(2). It waits for the process's ``mmap_lock``.
    """
    pidfd = os.pidfd_open(pid)
    try:
        syscall(PROCESS_MRELEASE, pidfd, 0)
    finally:
        os.close(pidfd)


def data_bytes() -> int:
    """Return the private writable memory of this process, as RLIMIT_DATA counts it (``VmData``)."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[5]) * resource.getpagesize()


def set_oom_score_adj(value: int) -> bool:
    """Set who dies first when memory ends, -1000 to 1000; lowering it needs CAP_SYS_RESOURCE."""
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(str(value))
    except OSError:
        return False
    return True


def be_urgent() -> None:
    """
    Go before others in the processors' queue and the disk's: asleep, and for some 30 ms of work, never for bulk.

    Of the calling thread, and of those that it starts then. Without CAP_SYS_NICE all stays as it is.
    """
    with contextlib.suppress(OSError, psutil.Error):
        os.setpriority(os.PRIO_PROCESS, 0, URGENT_NICE)
        psutil.Process().ionice(psutil.IOPRIO_CLASS_BE, 0)


@contextlib.contextmanager
def in_background(nice: int, io_class: str) -> Iterator[None]:
    """
    Do what others go before, and be urgent again; without CAP_SYS_NICE there is no way back.

    Args:
        nice: 0 to 19.
        io_class: A key of `IO_CLASSES`.
    """
    # Never less nice than it is: that needs the capability.
    os.setpriority(os.PRIO_PROCESS, 0, max(nice, os.getpriority(os.PRIO_PROCESS, 0)))
    set_io_class(io_class)
    try:
        yield
    finally:
        be_urgent()


def set_io_class(name: str) -> None:
    """Set the I/O class, a key of `IO_CLASSES`, else leave it; a hint that the ``none`` scheduler ignores."""
    if name in IO_CLASSES:
        with contextlib.suppress(OSError):
            psutil.Process().ionice(IO_CLASSES[name])
