"""
The C library through ctypes: one handle, errno turned into `OSError`.

``ctypes.CDLL`` releases the GIL around each call, so other threads run while one waits for a disk.
"""

from __future__ import annotations

import ctypes
import os

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
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno), what)
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
