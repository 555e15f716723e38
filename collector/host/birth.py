"""When a file was made: what os.stat leaves out."""

from __future__ import annotations

import ctypes
import os
import struct

from collector.host.libc import call

AT_SYMLINK_NOFOLLOW = 0x100
STATX_BTIME = 0x800
STATX_MASK_AT = 0
STATX_BTIME_AT = 0x50


def born_ns(name: str, dir_fd: int) -> int | None:
    """
    Return when a file was made, in nanoseconds since the epoch; ``None`` where its file system does not say.

    Source: statx(2), ``STATX_BTIME``; tmpfs since Linux 6.0.

    Raises:
        OSError: As statx(2) gives it.
    """
    buffer = ctypes.create_string_buffer(256)
    call("statx", dir_fd, os.fsencode(name), AT_SYMLINK_NOFOLLOW, STATX_BTIME, buffer)
    (mask,) = struct.unpack_from("=I", buffer, STATX_MASK_AT)
    if not mask & STATX_BTIME:
        return None
    seconds, nanoseconds = struct.unpack_from("=qI", buffer, STATX_BTIME_AT)
    return int(seconds * 1_000_000_000 + nanoseconds)
