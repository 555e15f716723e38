"""
System calls that Python does not wrap, through ctypes: one handle, errno turned into `OSError`.

``ctypes.CDLL`` releases the GIL around each call, so other threads run while one waits for a disk.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import struct
from typing import NamedTuple

LIBC = ctypes.CDLL(None, use_errno=True)

LIBC.syscall.restype = ctypes.c_long
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
MAP_FAILED = ctypes.c_void_p(-1).value
LIBC.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
LIBC.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
LIBC.pwrite64.restype = ctypes.c_ssize_t
LIBC.pwrite64.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64]
LIBC.fallocate64.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
LIBC.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
LIBC.statx.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
LIBC.renameat2.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
LIBC.fstatfs64.argtypes = [ctypes.c_int, ctypes.c_void_p]


def call(name: str, *arguments: object, what: str | None = None) -> int:
    """
    Call function *name* of the C library, one that says -1 on an error, and return its result.

    Raises:
        OSError: With the errno of the failed call, and *what* as its file name.
    """
    result: int = getattr(LIBC, name)(*arguments)
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def syscall(number: int, *arguments: object) -> int:
    """
    Make a system call that the C library does not wrap.

    Integers are passed as C longs; anything else as ctypes passes it.

    Raises:
        OSError: As the kernel gives it; ``ENOSYS`` where it does not know *number*.
    """
    longs = (ctypes.c_long(value) if isinstance(value, int) else value for value in arguments)
    return call("syscall", ctypes.c_long(number), *longs)


AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000


class _StatxField(NamedTuple):
    """Its bit in the mask, and where and how it stands in ``struct statx``."""

    bit: int
    layout: str
    at: int


BTIME = _StatxField(0x800, "=qI", 0x50)
DIOALIGN = _StatxField(0x2000, "=II", 0x98)  # stx_dio_mem_align, stx_dio_offset_align


class Alignment(NamedTuple):
    """Bytes that addresses and offsets of direct I/O must be multiples of; 0 and 0: none is offered."""

    memory: int
    offset: int


def birth_time_ns(name: str, dir_fd: int) -> int | None:
    """
    Return when a file was created, in nanoseconds since the epoch; ``None`` where its file system does not say.

    Raises:
        OSError: As statx(2) gives it.

    Source: statx(2), ``STATX_BTIME``; tmpfs since Linux 6.0.
    """
    found = _statx(dir_fd, name, AT_SYMLINK_NOFOLLOW, BTIME)
    return None if found is None else found[0] * 1_000_000_000 + found[1]


def direct_alignment(fd: int) -> Alignment | None:
    """Return what direct I/O on *fd* asks for; ``None`` where it does not say. Source: statx(2), Linux 6.1."""
    found = _statx(fd, "", AT_EMPTY_PATH, DIOALIGN)
    return None if found is None else Alignment(*found)


def _statx(fd: int, name: str, flags: int, wanted: _StatxField) -> tuple[int, ...] | None:
    """Return the numbers of one field; ``None`` where the kernel or the file system does not have it."""
    buffer = ctypes.create_string_buffer(256)
    call("statx", fd, os.fsencode(name), flags, wanted.bit, buffer)
    (mask,) = struct.unpack_from("=I", buffer)
    return struct.unpack_from(wanted.layout, buffer, wanted.at) if mask & wanted.bit else None


CACHESTAT = 451  # the same number on every architecture


class CacheStat(NamedTuple):
    """Pages of a range in the page cache. Source: cachestat(2), Linux 6.5."""

    cached: int
    dirty: int
    writeback: int


def cachestat(fd: int, *, offset: int = 0, length: int = 0) -> CacheStat | None:
    """Count the cached pages of a range (*length* 0: to the end); ``None`` where the kernel cannot."""
    span = (ctypes.c_uint64 * 2)(offset, length)
    counts = (ctypes.c_uint64 * 5)()
    try:
        syscall(CACHESTAT, fd, ctypes.byref(span), ctypes.byref(counts), 0)
    except OSError as exc:
        if exc.errno in (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            return None
        raise
    return CacheStat(cached=counts[0], dirty=counts[1], writeback=counts[2])


RENAME_NOREPLACE = 1


def rename_noreplace(old: str, new: str, *, dir_fd: int) -> None:
    """
    Rename within one directory, and never replace a file that already has the new name.

    Raises:
        FileExistsError: If *new* exists.
        OSError: As renameat2(2) gives it.
    """
    call("renameat2", dir_fd, os.fsencode(old), dir_fd, os.fsencode(new), RENAME_NOREPLACE)


F_SETSIG = 10  # linux/fcntl.h; Python does not name it


def being_written(fd: int) -> bool | None:
    """
    Return whether the file behind *fd* (open for reading only) is open for writing anywhere.

    A read lease is granted only while nobody has the file open for writing; it is given back at once.
    A writer who comes in between waits those microseconds, and the kernel tells the holder by a signal:
    by SIGURG, which is ignored by default, instead of SIGIO, which kills.

    Returns:
        ``None`` where the file system has no leases, or where the caller neither owns the file nor
        has CAP_LEASE.

    Source: fcntl(2), "Leases"; generic_add_lease() in fs/locks.c.
    """
    try:
        fcntl.fcntl(fd, F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as exc:
        return True if exc.errno == errno.EAGAIN else None
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
