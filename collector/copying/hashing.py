"""Digests of a file's content, holes included: what ``xxh128sum`` and ``sha256sum`` print."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING

import xxhash

from collector.copying.buffers import ZEROS, lease
from collector.copying.rate.throttle import Stopped, Throttle, always_go, ignore, limiter_for
from collector.copying.source import Source, SourceReader
from collector.model.copying import Digest, Feedback
from collector.model.errors import CopyError

if TYPE_CHECKING:
    import hashlib

HOLE_PIECE = 1 << 30
READ_PIECE = 1 << 20


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


def digest(
    fd: int,
    *,
    algorithm: Digest = Digest.XXH3_128,
    rate: str | int = "adaptive",
    ask: Callable[[], Feedback] = always_go,
    progress: Callable[[int], None] = ignore,
) -> str:
    """
    Return ``ALGORITHM:HEX`` of an open regular file as the disk returns it, read past the page cache.

    Args:
        fd: Open for reading; the caller closes it.
        algorithm: Not ``none``.
        rate: As in `CopySettings`.
        ask: The gate; asked before each MiB.
        progress: Called with the number of bytes digested so far, holes included.

    Raises:
        CopyError: If the disk does not return it, its length changes, or the gate says STOP.
    """
    source = Source(fd, 0, None)
    throttle = Throttle(limiter=limiter_for(rate, source.status.st_dev, reading=True), ask=ask)
    hasher = Hasher(algorithm)
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
