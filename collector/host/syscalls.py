"""
System calls that Python does not wrap, through ctypes; errno becomes `OSError`.

``ctypes.CDLL`` releases the GIL during each call.
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
    Call the C library function *name*, which returns -1 (mmap: ``MAP_FAILED``) on an error, and return its result.

    Raises:
        OSError: With the errno of the failed call, and *what* as its file name.
    """
    result: int = getattr(LIBC, name)(*arguments)
    if result in {-1, MAP_FAILED}:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def syscall(number: int, *arguments: object) -> int:
    """
    Make a system call that the C library does not wrap.

    Integers are passed as C longs, anything else as ctypes does by default.

    Raises:
        OSError: From the kernel; ``ENOSYS`` if it does not know *number*.
    """
    longs = (ctypes.c_long(value) if isinstance(value, int) else value for value in arguments)
    return call("syscall", ctypes.c_long(number), *longs)


AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000

# Fields of struct statx: bit in the mask, layout, offset.
BTIME = (0x800, "=qI", 0x50)
DIOALIGN = (0x2000, "=II", 0x98)  # stx_dio_mem_align, stx_dio_offset_align


class Alignment(NamedTuple):
    """Alignment in bytes of addresses and offsets for direct I/O; both are 0 if it is not supported."""

    memory: int
    offset: int


def birth_time_ns(name: str, dir_fd: int) -> int | None:
    """
    Return when a file was created, in nanoseconds since the epoch; ``None`` if its file system does not record it.

    An empty *name* is the file in *dir_fd* itself.

    Raises:
        OSError: From statx(2).

    Source: statx(2), ``STATX_BTIME``; tmpfs since Linux 6.0.
    """
    found = _statx(dir_fd, name, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH, BTIME)
    return None if found is None else found[0] * 1_000_000_000 + found[1]


def direct_alignment(fd: int) -> Alignment | None:
    """Return the alignment for direct I/O on *fd*; ``None`` if unknown. Source: statx(2), Linux 6.1."""
    found = _statx(fd, "", AT_EMPTY_PATH, DIOALIGN)
    return None if found is None else Alignment(*found)


def _statx(fd: int, name: str, flags: int, field: tuple[int, str, int]) -> tuple[int, ...] | None:
    """Return the numbers of one field; ``None`` if the kernel or the file system does not support it."""
    bit, layout, offset = field
    buffer = ctypes.create_string_buffer(256)
    call("statx", fd, os.fsencode(name), flags, bit, buffer)
    (mask,) = struct.unpack_from("=I", buffer)
    return struct.unpack_from(layout, buffer, offset) if mask & bit else None


CACHESTAT = 451  # the same number on every architecture


class CacheStat(NamedTuple):
    """Page cache pages of a range. Source: cachestat(2), Linux 6.5."""

    cached: int
    dirty: int
    writeback: int


def cachestat(fd: int, *, offset: int = 0, length: int = 0) -> CacheStat | None:
    """Return the cached pages of a range (*length* 0: to the end); ``None`` if not supported."""
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
    """Rename within one directory; raise `FileExistsError` if *new* exists. Source: renameat2(2)."""
    call("renameat2", dir_fd, os.fsencode(old), dir_fd, os.fsencode(new), RENAME_NOREPLACE)


F_SETSIG = 10  # linux/fcntl.h; Python does not name it


def being_written(fd: int) -> bool | None:
    """
    Return whether the file behind *fd* (open for reading only) is open for writing anywhere.

    A read lease is granted only while the file is not open for writing; it is released again immediately. A writer that
    opens it in between waits for those microseconds, and the kernel signals the holder: by SIGURG, which is ignored by
    default, instead of SIGIO, which kills.

    Returns:
        ``None`` if the file system does not support leases, or the caller neither owns the file nor has CAP_LEASE.

    Source: fcntl(2), "Leases"; generic_add_lease() in fs/locks.c.
    """
    try:
        fcntl.fcntl(fd, F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as exc:
        return True if exc.errno == errno.EAGAIN else None
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
