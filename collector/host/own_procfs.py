"""
A private procfs, for reading many processes.

Every name looked up below ``/proc`` leaves an inode and a dentry in the kernel's caches until the process ends or
memory is reclaimed: 73 MiB after a table of 10,000 processes. A detached procfs has caches of its own, which are freed
when it is closed. Source: fsopen(2); proc(5), ``subset=pid`` (Linux 5.8, also the first version in which each such
mount has its own superblock).
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from typing import Self

from collector.host import capabilities
from collector.host.files import READ_FLAGS, Host, OpenFd
from collector.host.procfs import pids
from collector.host.syscalls import LIBC, call, syscall
from collector.model.errors import StepError

FSOPEN, FSCONFIG, FSMOUNT = 430, 431, 432
CLOSE_ON_EXEC = 1
SET_STRING, CMD_CREATE = 1, 6
READ_ONLY_NOSUID_NODEV_NOEXEC = 0xF

# Processes per procfs. The peak for 10,000 processes was 6.4 MiB; with 250 per procfs it was 5.8, with 125 7.2 (the
# kernel frees with a delay), with 1,000 10, with 2,000 18.
RENEW_AFTER = 500
# linux_dirent64: inode, offset of the next entry, length of this one, type; with a PID as name it takes 32 bytes.
ENTRY = struct.Struct("=QqHB")
ENTRY_BYTES = 32
# What one name leaves, measured as 0.83 to 0.95 KB: an inode of 696 bytes, a dentry of 192, their share of the slab.
NAME_BYTES = 950
# What a walk of the ordinary /proc may leave behind.
LEFT_BYTES = 8 << 20
LIMIT_REASON = (
    f"so that /proc leaves no more than {LEFT_BYTES >> 20} MiB in the kernel's caches: "
    "run as root with CAP_SYS_ADMIN, on Linux 5.8 or later"
)


class WalkError(StepError):
    """Some processes were not read; the message says why."""


class Procfs:
    """
    The root of a procfs, held open.

    Once it is closed nothing can be opened through it: a helper thread that was left behind may come back after the
    descriptor's number has been given to another file.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @classmethod
    def own(cls) -> Self:
        """
        Mount one that no other process can see; 0.1 ms.

        Raises:
            OSError: ``EPERM`` without CAP_SYS_ADMIN, ``ENOSYS`` or ``EINVAL`` before Linux 5.8.
        """
        with capabilities.using(capabilities.SYS_ADMIN), OpenFd(syscall(FSOPEN, b"proc", CLOSE_ON_EXEC)) as context:
            syscall(FSCONFIG, context, SET_STRING, b"subset", b"pid", 0)
            syscall(FSCONFIG, context, CMD_CREATE, None, None, 0)
            mount = syscall(FSMOUNT, context, CLOSE_ON_EXEC, READ_ONLY_NOSUID_NODEV_NOEXEC)
        with OpenFd(mount):  # fsmount(2) returns an O_PATH descriptor, which cannot be listed
            return cls(os.open(".", READ_FLAGS, dir_fd=mount))

    @classmethod
    def best(cls, host: Host) -> tuple[Procfs, bool]:
        """Return a private one, or the ordinary one if none can be mounted; and whether it is private."""
        procfs = detached(host)
        return (procfs, True) if procfs is not None else (Procfs(host.open("/proc")), False)

    def process(self, pid: int) -> OpenFd:
        """Open a process's directory for look-ups, for a ``with`` block; raise `OSError` if the process has ended."""
        return OpenFd(os.open(str(pid), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._fd))

    def read(self, name: str, limit: int) -> bytes:
        """Read at most *limit* bytes of a file of a process, such as ``1/stat``, which come in one piece."""
        with OpenFd(os.open(name, READ_FLAGS, dir_fd=self._fd)) as fd:
            return os.read(fd, limit)

    def pids_from(self, offset: int, most: int = RENEW_AFTER) -> tuple[list[int], int | None]:
        """
        Return about *most* PIDs, from *offset* (0: the first), and the offset of the next one, ``None`` at the end.

        The kernel computes offsets from PIDs, so one is valid in any procfs of the same PID namespace. Listing
        everything through one procfs would by itself leave an inode and a dentry per process.
        """
        os.lseek(self._fd, offset, os.SEEK_SET)
        buffer = ctypes.create_string_buffer(most * ENTRY_BYTES)
        size = call("getdents64", self._fd, buffer, ctypes.c_size_t(len(buffer)))
        raw = buffer.raw[:size]
        found, at, entries = [], 0, 0
        while at < len(raw) and entries < most:
            _inode, offset, length, _kind = ENTRY.unpack_from(raw, at)
            name = raw[at + ENTRY.size : at + length].partition(b"\0")[0]
            if name.isdigit():
                found.append(int(name))
            at += length
            entries += 1
        # An entry takes at most `ENTRY_BYTES`: the kernel had room for more, if there were more.
        return found, offset if entries == most else None

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = -1


def affordable(*, names: int) -> int:
    """Return for how many processes *names* look-ups each (the directory included) leave at most `LEFT_BYTES`."""
    return LEFT_BYTES // (names * NAME_BYTES)


STAT_ONLY = affordable(names=2)
"""Limit where only ``stat`` is read."""


def fits(host: Host, most: int) -> bool:
    """Return whether all processes can be read: through a private procfs, or because there are at most *most*."""
    if host.root != "/":
        return True
    if (procfs := detached(host)) is not None:
        procfs.close()
        return True
    return sum(1 for _ in islice(pids(host), most + 1)) <= most


def batches(host: Host, *, most: int | None = None) -> Generator[tuple[Procfs, list[int]], None, None]:
    """
    Yield all processes, at most `RENEW_AFTER` at a time, with the procfs to open them in.

    The procfs is closed when the next batch is requested. It is the ordinary one if no private one can be mounted.

    Args:
        host: The machine; with another root, its ``/proc`` is read as it is.
        most: Maximum number of processes through the ordinary ``/proc``; ``None`` for all.

    Raises:
        WalkError: If there are more, or a further procfs could not be mounted.
    """
    procfs = detached(host)
    if procfs is None:
        yield from _ordinary(host, most if host.root == "/" else None)
    else:
        yield from _renewed(procfs)


def detached(host: Host) -> Procfs | None:
    """Return a private procfs; ``None`` if none can be mounted, or if it would show other processes."""
    if host.root != "/" or not hasattr(LIBC, "getdents64"):
        return None
    try:
        # If /proc belongs to another PID namespace, a new procfs would show different processes.
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
    # Closed at once: an error keeps what it left behind alive, and its directory open.
    with closing(pids(host)) as everything, closing(Procfs(host.open("/proc"))) as procfs:
        listing = islice(everything, most)
        while listed := list(islice(listing, RENEW_AFTER)):
            yield procfs, listed
        if most is not None and next(everything, None) is not None:
            raise WalkError(f"only {most} processes were read, {LIMIT_REASON}")
