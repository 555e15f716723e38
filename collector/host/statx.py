"""What os.stat leaves out. Source: statx(2)."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import NamedTuple

from collector.host.libc import call

AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
MASK_AT = 0


class Field(NamedTuple):
    """Its bit in the mask, and where and how it stands in ``struct statx``."""

    bit: int
    layout: str
    at: int


BTIME = Field(0x800, "=qI", 0x50)
DIOALIGN = Field(0x2000, "=II", 0x98)  # stx_dio_mem_align, stx_dio_offset_align


def born_ns(name: str, dir_fd: int) -> int | None:
    """
    Return when a file was made, in nanoseconds since the epoch; ``None`` where its file system does not say.

    Source: statx(2), ``STATX_BTIME``; tmpfs since Linux 6.0.

    Raises:
        OSError: As statx(2) gives it.
    """
    found = _ask(dir_fd, name, AT_SYMLINK_NOFOLLOW, BTIME)
    return None if found is None else found[0] * 1_000_000_000 + found[1]


def direct_alignment(fd: int) -> tuple[int, ...] | None:
    """Return the alignments of memory and of offsets that *fd* asks of direct I/O. Source: statx(2), Linux 6.1."""
    return _ask(fd, "", AT_EMPTY_PATH, DIOALIGN)


def _ask(fd: int, name: str, flags: int, wanted: Field) -> tuple[int, ...] | None:
    """Return the numbers of one field; ``None`` where the kernel or the file system does not have it."""
    buffer = ctypes.create_string_buffer(256)
    call("statx", fd, os.fsencode(name), flags, wanted.bit, buffer)
    (mask,) = struct.unpack_from("=I", buffer, MASK_AT)
    return struct.unpack_from(wanted.layout, buffer, wanted.at) if mask & wanted.bit else None
