"""
Compressed files read forwards, with bounded memory and work.

The libraries are imported when the first file of their kind is read, not by an idle daemon.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, cast

from collector.host.compressed_end import (
    MAX_BEHIND_BYTES,
    LacksEnd,
    bzip2_lacks_end,
    gzip_lacks_end,
    lz4_lacks_end,
    xz_lacks_end,
    zstd_lacks_end,
)
from collector.host.elfcore import CoreError
from collector.host.files import PIECE

if TYPE_CHECKING:
    import zlib

# systemd-coredump compresses at zstd's default level, whose window is 2 MiB; 8 MiB is the most
# that any decoder must accept (RFC 8878). A hostile frame may ask for gigabytes.
MAX_WINDOW_LOG = 23
# xz takes 9 MiB for what its default level wrote, and 65 MiB for that of -9.
MAX_XZ_BYTES = 12 << 20
# At most this much is unpacked to find the notes, which are near the beginning.
MAX_UNPACKED_BYTES = 256 << 20
# At most this much is read for that: empty blocks unpack to nothing.
MAX_PACKED_BYTES = 256 << 20
# bgzip starts a stream every 64 KiB.
MAX_STREAMS = 5000
# To learn whether a core is whole, at most this much behind its notes is unpacked: 0.1 s with zstd, 2 s with bzip2.
LOOKAHEAD_BYTES = 64 << 20


class Decompressor(Protocol):
    """What the decompressors of the standard library have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes | None: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


Codec = tuple[Callable[[], Decompressor], tuple[type[Exception], ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """A format: how its files begin, its library with the errors that it raises, and what tells a missing end."""

    name: str
    magics: tuple[bytes, ...]
    load: Callable[[], Codec]
    lacks_end: LacksEnd | None = None


def _zstd() -> Codec:
    from collector.host.compression import zstd  # noqa: PLC0415

    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG}
    return lambda: zstd.ZstdDecompressor(options=options), (zstd.ZstdError,)


def _xz() -> Codec:
    import lzma  # noqa: PLC0415

    return lambda: lzma.LZMADecompressor(memlimit=MAX_XZ_BYTES), (lzma.LZMAError,)


def _gzip() -> Codec:
    import zlib  # noqa: PLC0415

    return lambda: _Gzip(zlib.decompressobj(31)), (zlib.error,)  # 31: with gzip's header and trailer


def _bzip2() -> Codec:
    import bz2  # noqa: PLC0415

    return bz2.BZ2Decompressor, (OSError, ValueError)


def _lz4() -> Codec:
    try:
        frame = importlib.import_module("lz4.frame")
    except ImportError as exc:
        raise CoreError(
            "compressed with lz4, for which the Python package lz4 is not installed; unpack it with `lz4 -d`"
        ) from exc
    return cast("Callable[[], Decompressor]", frame.LZ4FrameDecompressor), (RuntimeError, ValueError)


ZSTD_SKIPPABLE = tuple(bytes([first]) + b"\x2a\x4d\x18" for first in range(0x50, 0x60))  # pzstd begins with one
COMPRESSIONS = (
    Compression(name="zstd", magics=(b"\x28\xb5\x2f\xfd", *ZSTD_SKIPPABLE), load=_zstd, lacks_end=zstd_lacks_end),
    Compression(name="xz", magics=(b"\xfd7zXZ\0",), load=_xz, lacks_end=xz_lacks_end),
    Compression(name="lzma", magics=(b"]\0\0",), load=_xz),
    Compression(name="gzip", magics=(b"\x1f\x8b",), load=_gzip, lacks_end=gzip_lacks_end),
    Compression(name="bzip2", magics=(b"BZh",), load=_bzip2, lacks_end=bzip2_lacks_end),
    Compression(name="lz4", magics=(b"\x04\x22\x4d\x18",), load=_lz4, lacks_end=lz4_lacks_end),
)
UNSUPPORTED = {
    b"\x02\x21\x4c\x18": ("lz4 in its legacy format", "lz4 -d"),
    b"LZIP": ("lzip", "lzip -d"),
    b"LRZI": ("lrzip", "lrzip -d"),
    b"\x89LZO": ("lzop", "lzop -d"),
    b"\x1f\x9d": ("compress", "uncompress"),
    b"PK\x03\x04": ("zip", "unzip"),
    b"7z\xbc\xaf\x27\x1c": ("7-Zip", "7z x"),
    b"\xff\x06\0\0sNaPpY": ("snappy", "snzip -d"),
}


def compression_of(magic: bytes) -> Compression | None:
    """
    Return the compression of a file that begins with *magic*; ``None`` if it is not compressed.

    Raises:
        CoreError: If the compression is known but not supported.
    """
    for compression in COMPRESSIONS:
        if magic.startswith(compression.magics):
            return compression
    for known, (name, command) in UNSUPPORTED.items():
        if magic.startswith(known):
            raise CoreError(f"compressed with {name}, which is not supported; unpack it with `{command}`")
    return None


class _Gzip:
    """zlib's decompressor with the methods of the others."""

    def __init__(self, decompressor: zlib._Decompress) -> None:
        self._zlib = decompressor

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)


class UnpackingReader:
    """
    Reads a compressed file forwards, one stream after the other, up to `MAX_UNPACKED_BYTES` of its contents.

    *position* is how far in them it is.
    """

    def __init__(
        self,
        fd: int,
        compression: Compression,
        *,
        read_packed: Callable[[int, int], bytes] | None = None,
        whole: bool = False,
    ) -> None:
        """
        Begin to read.

        Args:
            fd: The file.
            compression: Its format.
            read_packed: Returns *size* bytes from *offset* on, which only ever grows, if the file has them encoded.
            whole: Read it to its end, however long; the caller bounds it.

        Raises:
            CoreError: If the library is not installed.
        """
        self._fd = fd
        self._pread = read_packed or partial(os.pread, fd)
        self._compression = compression
        self._make, self._errors = compression.load()
        self._decompressor = self._make()
        self._packed = b""
        self._packed_bytes = 0
        self._streams = 1
        self.position = 0
        self._left = sys.maxsize if whole else MAX_UNPACKED_BYTES
        self._most_packed_bytes = sys.maxsize if whole else MAX_PACKED_BYTES
        self._most_streams = sys.maxsize if whole else MAX_STREAMS
        self._ended = False

    def read(self, size: int) -> bytes:
        """Return *size* bytes, fewer only at the end, at damage or at the limit."""
        size = min(size, self._left)
        parts: list[bytes] = []
        try:
            while size > 0 and (part := self._unpack(size)):
                parts.append(part)
                size -= len(part)
                self._left -= len(part)
                self.position += len(part)
        except self._errors as exc:
            if not parts:
                raise CoreError(f"its {self._compression.name} data cannot be unpacked: {exc}") from exc
        return b"".join(parts)

    def skip(self, size: int) -> None:
        while size > 0 and (part := self.read(min(size, PIECE))):
            size -= len(part)

    def is_cut_off(self, end_bytes: int) -> bool:
        """
        Return whether the contents end before *end_bytes*, or the file within a stream; call it last.

        Beyond `LOOKAHEAD_BYTES` only the file's structure is looked at, as far as the format has any.
        """
        behind = max(end_bytes - self.position, 0)
        try:
            self.skip(min(behind, LOOKAHEAD_BYTES) + MAX_BEHIND_BYTES)
        except CoreError:
            return True
        if self._ended:
            return self.position < end_bytes or not self._decompressor.eof
        if self._compression.lacks_end is None or (self._streams > 1 and self._compression.name == "gzip"):
            return False  # gzip has the length of its last stream only
        return self._compression.lacks_end(self._fd, end_bytes)

    def _unpack(self, size: int) -> bytes:
        """Return at most *size* further bytes; none at the end or at a limit."""
        while not self._decompressor.eof or self._next_stream():
            packed = b""
            if is_hungry := self._decompressor.needs_input:
                packed, self._packed = self._packed or self._read_packed(), b""
                if not packed and self._packed_bytes < self._most_packed_bytes:
                    self._ended = True
            # Without input, too: zlib may still hold output.
            if part := self._decompressor.decompress(packed, size):
                return part
            # What it held may have been the end of a block, without output: only then does it ask for more.
            if is_hungry and not packed and not self._decompressor.eof:
                break
        return b""

    def _next_stream(self) -> bool:
        """Begin the next stream, if there is one behind zeros; anything else there does not belong to the core."""
        if self._ended or self._streams == self._most_streams:
            return False
        rest = (self._decompressor.unused_data or b"").lstrip(b"\0")
        while len(rest) < 8 and (more := self._read_packed()):
            rest = (rest + more).lstrip(b"\0")
        if not rest.startswith(self._compression.magics):
            self._ended = self._packed_bytes < self._most_packed_bytes
            return False
        self._decompressor = self._make()
        self._packed = rest
        self._streams += 1
        return True

    def _read_packed(self) -> bytes:
        packed = self._pread(min(PIECE, self._most_packed_bytes - self._packed_bytes), self._packed_bytes)
        self._packed_bytes += len(packed)
        return packed
