"""
Digests of a file's content, holes included: what ``xxh128sum`` and ``sha256sum`` print.

Of a file with very long holes, which anybody can make, only what is not zero is digested: XXH3 takes three to eight
minutes for 15 TiB of zeros, and SHA-256 three hours.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

import xxhash

from collector.copying.buffers import ZEROS, lease
from collector.copying.rate.throttle import Stopped, Throttle, always_go, ignore, limiter_for
from collector.copying.source import Source, SourceReader
from collector.model.copying import Digest, Feedback
from collector.model.errors import CopyError
from collector.model.text import escape_name

if TYPE_CHECKING:
    import hashlib

SPARSE = "-sparse"
"""Follows the algorithm's name where only what is not zero was digested."""

LONG_HOLES = 16 << 30
"""Bytes of holes from which on a file is digested that way."""

LONGEST_HOLES = 256 << 30
"""Bytes of holes beyond which zeros are not digested, whatever a manifest says: 8 s of XXH3, 3 min of SHA-256."""

BLOCK = 64 << 10

HOLE_PIECE = 1 << 30
READ_PIECE = 1 << 20

SHOWN = 80


class Hasher:
    """A running digest. Updates of more than 2 KiB release the GIL."""

    def __init__(self, algorithm: Digest) -> None:
        self.algorithm = algorithm
        self._state: xxhash.xxh3_128 | hashlib._Hash
        if algorithm is Digest.XXH3_128:
            self._state = xxhash.xxh3_128()
        else:
            import hashlib  # noqa: PLC0415 - OpenSSL: 3.5 MiB of each process, and only SHA-256 needs it

            self._state = hashlib.sha256()

    def update(self, data: bytes | memoryview) -> None:
        self._state.update(data)

    def zeros(self, size: int, *, meanwhile: Callable[[], object] = int) -> None:
        """Add a hole of *size* bytes; call *meanwhile* after each GiB of it, about 60 times a second."""
        for start in range(0, size, HOLE_PIECE):
            if start:
                meanwhile()
            for at in range(start, min(size, start + HOLE_PIECE), len(ZEROS)):
                self._state.update(ZEROS[: size - at])

    def text(self) -> str:
        """Return ``ALGORITHM:HEX``."""
        return f"{self.algorithm}:{self._state.hexdigest()}"


class SparseHasher(Hasher):
    """
    A running digest of a file's blocks of 64 KiB that are not all zero, each with its offset, and of its length.

    It does not depend on where a file system keeps holes. The last block may be shorter.
    """

    def __init__(self, algorithm: Digest) -> None:
        super().__init__(algorithm)
        self._at = 0
        self._block = bytearray()

    def update(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            piece = view[: BLOCK - len(self._block)]
            self._block += piece
            view = view[len(piece) :]
            if len(self._block) == BLOCK:
                self._end_block()

    def zeros(self, size: int, **_: object) -> None:
        """Add a hole of *size* bytes, which takes no time."""
        first = min(size, -len(self._block) % BLOCK)
        self.update(ZEROS[:first])
        last = (size - first) % BLOCK
        self._at += size - first - last
        self.update(ZEROS[:last])

    def text(self) -> str:
        """Return ``ALGORITHM-sparse:HEX``; nothing can be added any more."""
        self._end_block()
        self._state.update(struct.pack("<Q", self._at))
        return f"{self.algorithm}{SPARSE}:{self._state.hexdigest()}"

    def _end_block(self) -> None:
        if self._block != ZEROS[: len(self._block)]:
            self._state.update(struct.pack("<Q", self._at))
            self._state.update(self._block)
        self._at += len(self._block)
        self._block.clear()


def hasher_for(algorithm: Digest, source: Source) -> Hasher:
    """Return what digests the content of a file, by how long its holes are."""
    holes = source.size - source.status.st_blocks * 512
    return SparseHasher(algorithm) if holes > LONG_HOLES else Hasher(algorithm)


def digest_again(fd: int, kind: str, *, rate: str | int = "adaptive", ask: Callable[[], Feedback] = always_go) -> str:
    """
    Return the digest of an open file, to compare it with one of the same *kind*, the part before the colon.

    Raises:
        CopyError: As `digest`; if there is no such kind, or zeros would have to be digested for hours.
    """
    name = kind.removesuffix(SPARSE)
    if name not in {Digest.XXH3_128, Digest.SHA256}:
        raise CopyError(f"has a digest of an unknown kind: {escape_name(kind[:SHOWN])}")
    if name != kind:
        return digest(fd, rate=rate, hasher=SparseHasher(Digest(name)), ask=ask)
    status = os.fstat(fd)
    if status.st_size - status.st_blocks * 512 > LONGEST_HOLES:
        raise CopyError(f"has holes of more than {LONGEST_HOLES >> 30} GiB, and a digest of their zeros: not read")
    return digest(fd, rate=rate, hasher=Hasher(Digest(name)), ask=ask)


def digest(
    fd: int,
    *,
    algorithm: Digest = Digest.XXH3_128,
    hasher: Hasher | None = None,
    rate: str | int = "adaptive",
    ask: Callable[[], Feedback] = always_go,
    progress: Callable[[int], None] = ignore,
) -> str:
    """
    Return the digest of an open regular file as the disk returns it, read past the page cache.

    Args:
        fd: Open for reading; the caller closes it.
        algorithm: Not ``none``.
        hasher: What digests the content, if that is not to be chosen by the holes.
        rate: As in `CopySettings`.
        ask: The gate; asked before each MiB.
        progress: Called with the number of bytes digested so far, holes included.

    Raises:
        CopyError: If the disk does not return it, its length changes, or the gate says STOP.
    """
    source = Source(fd, 0, None)
    throttle = Throttle(limiter=limiter_for(rate, source.status.st_dev, reading=True), ask=ask)
    hasher = hasher or hasher_for(algorithm, source)
    at = 0
    with lease(1, READ_PIECE) as (buffer,), closing(SourceReader(source, throttle)) as reader:
        try:
            for extent in source.extents():
                hasher.zeros(extent.start - at, meanwhile=lambda: throttle.wait(0))
                at = extent.start
                while at < extent.end:
                    size = min(READ_PIECE, extent.end - at)
                    got = reader.read(buffer, at, size)
                    hasher.update(buffer.view[:got])
                    at += got
                    progress(at)
                    if got < size:
                        raise CopyError("the file shrank while it was read")
            hasher.zeros(source.end - at, meanwhile=lambda: throttle.wait(0))
            if source.shrunk() is not None:  # in a hole: no read was short
                raise CopyError("the file shrank while it was read")
        except Stopped as exc:
            raise CopyError(f"stopped at byte {at}: {exc.reason}") from exc
        except OSError as exc:
            raise CopyError(f"cannot read byte {at}: {os.strerror(exc.errno or 0)}", errno=exc.errno) from exc
    progress(source.end)
    return hasher.text()
