"""
Whether a compressed file ends where its format says, without unpacking it.

Source: RFC 8878 (zstd), RFC 1952 (gzip), the formats of xz and lz4 frames, bzip2's compress.c.
"""

from __future__ import annotations

import os
from collections.abc import Callable

# A block of zstd holds 128 KiB at most, so that this is 6 GiB of a core; beyond, nothing is said.
MAX_BLOCKS = 50_000
# Behind the last segment are section headers in cores of gdb, or with more than 65,534 segments.
MAX_BEHIND_BYTES = 1 << 20

# Takes the file and the bytes that it should unpack to.
LacksEnd = Callable[[int, int], bool]


def xz_lacks_end(fd: int, _unpacked: int) -> bool:
    """Its footer ends in ``YZ``; zeros may follow."""
    return not _tail(fd, 4096).rstrip(b"\0").endswith(b"YZ")


def gzip_lacks_end(fd: int, unpacked: int) -> bool:
    """Its last four bytes are the length modulo 4 GiB."""
    return (int.from_bytes(_tail(fd, 4), "little") - unpacked) % (1 << 32) > MAX_BEHIND_BYTES


def bzip2_lacks_end(fd: int, _unpacked: int) -> bool:
    """A mark of 48 bits and a checksum of 32 come last, at any bit."""
    tail = int.from_bytes(_tail(fd, 11), "big")
    return not any(tail >> (32 + padding) & 0xFFFF_FFFF_FFFF == 0x1772_4538_5090 for padding in range(8))


def zstd_lacks_end(fd: int, _unpacked: int) -> bool:
    """Follow its frames, block by block."""
    at, size, blocks = 0, os.fstat(fd).st_size, 0
    while at < size and blocks < MAX_BLOCKS:
        blocks += 1
        magic = _number(fd, at, 4)
        if magic & 0xFFFF_FFF0 == 0x184D_2A50:  # skippable
            at += 8 + _number(fd, at + 4, 4)
            continue
        if magic != 0xFD2F_B528:
            return False  # not part of it
        flags = _number(fd, at + 4, 1)
        single = flags >> 5 & 1
        content = (single, 2, 4, 8)[flags >> 6]
        at += 5 + (1 - single) + (0, 1, 2, 4)[flags & 3] + content
        last = 0
        while not last and at < size and blocks < MAX_BLOCKS:
            head = _number(fd, at, 3)
            last, kind = head & 1, head >> 1 & 3
            at += 3 + (1 if kind == 1 else head >> 3)  # of kind 1 is one byte, repeated
            blocks += 1
        if blocks >= MAX_BLOCKS:
            return False
        at += 4 * (flags >> 2 & 1)  # a checksum
        if not last:
            return True
    return at > size


def lz4_lacks_end(fd: int, _unpacked: int) -> bool:
    """Follow its first frame, block by block."""
    size = os.fstat(fd).st_size
    flags = _number(fd, 4, 1)
    at = 7 + 8 * (flags >> 3 & 1) + 4 * (flags & 1)
    for _ in range(MAX_BLOCKS):
        if at + 4 > size:
            return True
        block = _number(fd, at, 4) & 0x7FFF_FFFF
        at += 4
        if not block:
            return at + 4 * (flags >> 2 & 1) > size
        at += block + 4 * (flags >> 4 & 1)
    return False


def _tail(fd: int, size: int) -> bytes:
    return os.pread(fd, size, max(os.fstat(fd).st_size - size, 0))


def _number(fd: int, at: int, size: int) -> int:
    return int.from_bytes(os.pread(fd, size, at), "little")
