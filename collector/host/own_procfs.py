"""
A procfs of one's own, for whoever looks at many processes.

Each name that is looked up below ``/proc`` leaves an inode and a dentry in the kernel's caches for as long as the
process lives and memory is not reclaimed: 73 MiB after a process table of 10,000. A detached procfs has caches of
its own, which go when it is closed. Source: fsopen(2); proc(5), ``subset=pid`` (Linux 5.8, which is also the first
where each such mount has its own superblock).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from typing import Self

from collector.host.files import Host
from collector.host.procfs import pids
from collector.host.syscalls import LIBC, call, syscall
from collector.model.errors import StepError

FSOPEN, FSCONFIG, FSMOUNT = 430, 431, 432
CLOSE_ON_EXEC = 1
SET_STRING, CMD_CREATE = 1, 6
READ_ONLY_NOSUID_NODEV_NOEXEC = 0xF

# A procfs serves so many processes. The peak for 10,000 of them was 6.4 MiB; renewed every 250 it was 5.8, every 125
# 7.2 (the kernel frees a little late), every 1,000 10, every 2,000 18.
RENEW_AFTER = 500
# linux_dirent64: inode, offset of the next entry, length of this one, type; then the name, 32 bytes with a PID's.
ENTRY = struct.Struct("=QqHB")
ENTRY_BYTES = 32
# What one name leaves, measured: 0.83 to 0.95 KB (an inode of 696 bytes, a dentry of 192, their share of the slab).
NAME_BYTES = 950
# What a walk may leave behind where there is only the ordinary /proc.
LEFT_BYTES = 8 << 20
NO_MORE = (
    f"so that /proc leaves no more than {LEFT_BYTES >> 20} MiB in the kernel's caches: "
    "run as root with CAP_SYS_ADMIN, on Linux 5.8 or later"
)


class WalkError(StepError):
    """Not all processes were looked at; the message says why."""


class Procfs:
    """
    The root of a procfs, held open.

    Once it is closed nothing can be opened through it, even by a helper thread that was left behind and comes back:
    the number of its descriptor may be another file's by then.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def ordinary(cls, host: Host) -> Self:
        """Open the host's ``/proc``."""
        return cls(os.open(host.path("/proc"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))

    @classmethod
    def own(cls) -> Self:
        """
        Mount one that nobody else sees; 0.1 ms.

        Raises:
            OSError: ``EPERM`` without CAP_SYS_ADMIN, ``ENOSYS`` or ``EINVAL`` before Linux 5.8.
        """
        context = syscall(FSOPEN, b"proc", CLOSE_ON_EXEC)
        try:
            syscall(FSCONFIG, context, SET_STRING, b"subset", b"pid", 0)
            syscall(FSCONFIG, context, CMD_CREATE, None, None, 0)
            mount = syscall(FSMOUNT, context, CLOSE_ON_EXEC, READ_ONLY_NOSUID_NODEV_NOEXEC)
        finally:
            os.close(context)
        try:  # fsmount(2) gives an O_PATH descriptor, which cannot be listed
            return cls(os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount))
        finally:
            os.close(mount)

    def open(self, pid: int) -> int:
        """Open a process's directory, to look names up in it."""
        return os.open(str(pid), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd)

    def pids_from(self, offset: int) -> tuple[list[int], int | None]:
        """
        Return about `RENEW_AFTER` PIDs, and the offset of the next; ``None`` for it at the end.

        An offset holds in any procfs of the same PID namespace: the kernel makes it of the PID. Listing all through
        one would by itself leave an inode and a dentry per process.
        """
        os.lseek(self._fd, offset, os.SEEK_SET)
        buffer = ctypes.create_string_buffer(RENEW_AFTER * ENTRY_BYTES)
        size = call("getdents64", self._fd, buffer, ctypes.c_size_t(len(buffer)))
        raw = buffer.raw[:size]
        found, at, entries = [], 0, 0
        while at < len(raw) and entries < RENEW_AFTER:
            _inode, offset, length, _kind = ENTRY.unpack_from(raw, at)
            name = raw[at + ENTRY.size : at + length].partition(b"\0")[0]
            if name.isdigit():
                found.append(int(name))
            at += length
            entries += 1
        return found, offset if raw else None

    def close(self) -> None:
        """Give back what was looked up, if it is one's own."""
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def affordable(*, names: int) -> int:
    """Return of how many processes *names* names each, the directory's among them, leave at most `LEFT_BYTES`."""
    return LEFT_BYTES // (names * NAME_BYTES)


STAT_ALONE = affordable(names=2)
"""Processes of which nothing but ``stat`` is read, without a procfs of one's own."""


def fits(host: Host, most: int) -> bool:
    """Return whether all processes can be looked at: through procfs of one's own, or since there are at most *most*."""
    if host.root != "/":
        return True
    if (procfs := _first(host)) is not None:
        procfs.close()
        return True
    return sum(1 for _ in islice(pids(host), most + 1)) <= most


def batches(host: Host, *, most: int | None = None) -> Generator[tuple[Procfs, list[int]], None, None]:
    """
    Yield all processes, at most `RENEW_AFTER` at a time, each time with the procfs to open them in.

    That is closed when the next is asked for. Where none of one's own can be made, it is the ordinary one.

    Args:
        host: The machine; one with another root has whatever lies there for its ``/proc``.
        most: Maximum number of processes through the ordinary ``/proc``; ``None`` for all.

    Raises:
        WalkError: If there are more, or no further procfs could be mounted.
    """
    procfs = _first(host)
    if procfs is None:
        yield from _ordinary(host, most if host.root == "/" else None)
    else:
        yield from _renewed(procfs)


def _first(host: Host) -> Procfs | None:
    """Return a procfs of one's own; ``None`` if none can be made, or if it would show other processes."""
    if host.root != "/" or not hasattr(LIBC, "getdents64"):
        return None
    try:
        # A /proc of another PID namespace than ours: a new one would be of ours.
        return Procfs.own() if os.readlink("/proc/self") == str(os.getpid()) else None
    except OSError:
        return None


def _renewed(procfs: Procfs) -> Iterator[tuple[Procfs, list[int]]]:
    offset = 0
    while True:
        with closing(procfs):
            listed, following = procfs.pids_from(offset)
            yield procfs, listed
        if following is None:
            return
        offset = following
        try:
            procfs = Procfs.own()
        except OSError as exc:
            raise WalkError(f"no further procfs could be mounted: {exc.strerror}") from exc


def _ordinary(host: Host, most: int | None) -> Iterator[tuple[Procfs, list[int]]]:
    everything = pids(host)
    listing = islice(everything, most)
    with closing(Procfs.ordinary(host)) as procfs:
        while listed := list(islice(listing, RENEW_AFTER)):
            yield procfs, listed
    if most is not None and next(everything, None) is not None:
        raise WalkError(f"only {most} processes were looked at, {NO_MORE}")
