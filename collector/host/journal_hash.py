"""
The hashes by which a journal file finds a field: siphash24, keyed with the file's id, and Jenkins' before systemd 246.

Source: siphash24.c and lookup3.c in systemd's src/basic and src/libsystemd/sd-journal.
"""

from __future__ import annotations

import struct

WORD = (1 << 64) - 1
HALF = (1 << 32) - 1


def siphash24(data: bytes, key: bytes) -> int:
    """Return the SipHash-2-4 of *data* with *key*, 16 bytes long."""
    k0, k1 = struct.unpack("<QQ", key)
    state = (k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573)
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for (word,) in struct.iter_unpack("<Q", padded):
        a, b, c, d = _sip_rounds((*state[:3], state[3] ^ word), 2)
        state = (a ^ word, b, c, d)
    a, b, c, d = _sip_rounds((state[0], state[1], state[2] ^ 0xFF, state[3]), 4)
    return a ^ b ^ c ^ d


def _sip_rounds(state: tuple[int, int, int, int], count: int) -> tuple[int, int, int, int]:
    a, b, c, d = state
    for _ in range(count):
        a = (a + b) & WORD
        b = _rotated(b, 13, 64) ^ a
        a = _rotated(a, 32, 64)
        c = (c + d) & WORD
        d = _rotated(d, 16, 64) ^ c
        a = (a + d) & WORD
        d = _rotated(d, 21, 64) ^ a
        c = (c + b) & WORD
        b = _rotated(b, 17, 64) ^ c
        c = _rotated(c, 32, 64)
    return a, b, c, d


def jenkins64(data: bytes) -> int:
    """Return what ``hashlittle2`` of lookup3.c makes of *data*, its first result in the upper half."""
    a = b = c = (0xDEADBEEF + len(data)) & HALF
    if not data:
        return c << 32 | b
    padded = data + bytes(-len(data) % 12)
    words = list(struct.iter_unpack("<III", padded))
    for x, y, z in words[:-1]:
        a, b, c = _jenkins_mix((a + x) & HALF, (b + y) & HALF, (c + z) & HALF)
    x, y, z = words[-1]
    b, c = _jenkins_final((a + x) & HALF, (b + y) & HALF, (c + z) & HALF)
    return c << 32 | b


def _jenkins_mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for turn in (4, 6, 8, 16, 19, 4):
        a = ((a - c) & HALF) ^ _rotated(c, turn, 32)
        a, b, c = b, (c + b) & HALF, a
    return a, b, c


def _jenkins_final(a: int, b: int, c: int) -> tuple[int, int]:
    for turn in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - _rotated(b, turn, 32)) & HALF
        a, b, c = b, c, a
    return a, b


def _rotated(value: int, by: int, width: int) -> int:
    return (value << by | value >> (width - by)) & ((1 << width) - 1)
