"""
The values of journal fields that systemd has compressed, unpacked up to a limit.

Each field is compressed by itself, from 512 bytes on. The libraries are imported when the first such field is read.
Source: systemd's src/basic/compress.c.
"""

from __future__ import annotations

XZ, LZ4, ZSTD = 1, 2, 4
COMPRESSED = XZ | LZ4 | ZSTD
"""Flags of an object."""

MAX_WINDOW_LOG = 23  # the most that any decoder must accept (RFC 8878)
MAX_XZ_BYTES = 12 << 20


class UnpackError(ValueError):
    """The value is damaged."""


def unpacked(flags: int, packed: bytes, limit: int) -> bytes:
    """
    Return at most *limit* bytes of a value; *packed* may be cut off.

    Raises:
        UnpackError: If it is damaged.
    """
    if flags & ZSTD:
        return _zstd(packed, limit)
    if flags & LZ4:
        return lz4_block(packed[8:], limit)  # behind its unpacked length
    if flags & XZ:
        return _xz(packed, limit)
    return packed[:limit]


def _zstd(packed: bytes, limit: int) -> bytes:
    from collector.host.compression import zstd  # noqa: PLC0415

    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG}
    try:
        return zstd.ZstdDecompressor(options=options).decompress(packed, limit)
    except zstd.ZstdError as exc:
        raise UnpackError(f"zstd: {exc}") from exc


def _xz(packed: bytes, limit: int) -> bytes:
    import lzma  # noqa: PLC0415

    try:
        return lzma.LZMADecompressor(memlimit=MAX_XZ_BYTES).decompress(packed, limit)
    except lzma.LZMAError as exc:
        raise UnpackError(f"xz: {exc}") from exc


def lz4_block(packed: bytes, limit: int) -> bytes:
    """
    Return the first *limit* bytes of a bare block of LZ4, which has no header; the library for it is not needed.

    Source: lz4's doc/lz4_Block_format.md.
    """
    out = bytearray()
    at = 0
    while at < len(packed) and len(out) < limit:
        token = packed[at]
        literals, at = _length(packed, at + 1, token >> 4)
        out += packed[at : at + literals]
        at += literals
        if at + 2 > len(packed):
            break
        back = int.from_bytes(packed[at : at + 2], "little")
        matched, at = _length(packed, at + 2, token & 15)
        _repeat(out, back, min(matched + 4, limit))
    return bytes(out[:limit])


def _length(packed: bytes, at: int, start: int) -> tuple[int, int]:
    length = start
    while start == 15 and at < len(packed):
        length += packed[at]
        at += 1
        if packed[at - 1] != 255:
            break
    return length, at


def _repeat(out: bytearray, back: int, count: int) -> None:
    """Append *count* bytes from *back* bytes before the end; they may overlap with what is appended."""
    if not 0 < back <= len(out):
        raise UnpackError("lz4: a match before the beginning")
    pattern = bytes(out[-back:])
    out += (pattern * (count // back + 1))[:count]
