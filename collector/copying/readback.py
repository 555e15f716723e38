"""Digest of a file as the disk returns it: read past the page cache, at the pace of the disk's other users."""

from __future__ import annotations

import os
from collections.abc import Callable

from collector.copying.buffers import lease
from collector.copying.hashing import Hasher
from collector.copying.rate.throttle import Steering, Stopped, always_go, ignore, pace_for
from collector.copying.reader import Reader
from collector.copying.source import Source
from collector.model.copying import Digest, Feedback
from collector.model.errors import CopyError

PIECE = 1 << 20


def digest(
    fd: int,
    *,
    algorithm: Digest = Digest.XXH3_128,
    rate: str | int = "adaptive",
    ask: Callable[[], Feedback] = always_go,
    progress: Callable[[int], None] = ignore,
) -> str:
    """
    Return ``ALGORITHM:HEX`` of an open regular file; holes count as the zeros that they are, unread.

    Args:
        fd: Open for reading; stays the caller's.
        algorithm: Not ``none``.
        rate: As in `CopySettings`.
        ask: Advice before each MiB.
        progress: Told the bytes digested so far, holes included.

    Raises:
        CopyError: If the disk does not return it, it changes its length, or the gate says STOP.
    """
    source = Source(fd, 0, None)
    steering = Steering(pace=pace_for(rate, source.status.st_dev, reading=True), ask=ask)
    hasher = Hasher(algorithm)
    at = 0
    with lease(1, PIECE) as (buffer,), Reader(source, steering) as reader:
        try:
            for extent in source.extents():
                hasher.zeros(extent.start - at, meanwhile=lambda: steering.turn(0))
                at = extent.start
                while at < extent.end:
                    size = min(PIECE, extent.end - at)
                    got = reader.read(buffer, at, size)
                    hasher.update(buffer.view[:got])
                    at += got
                    progress(at)
                    if got < size:
                        raise CopyError("the file shrank while it was read")
            hasher.zeros(source.end - at, meanwhile=lambda: steering.turn(0))
            if source.shrunk() is not None:  # in a hole: nothing was read short
                raise CopyError("the file shrank while it was read")
        except Stopped as exc:
            raise CopyError(f"stopped at byte {at}: {exc.reason}") from exc
        except OSError as exc:
            raise CopyError(f"cannot read byte {at}: {os.strerror(exc.errno or 0)}", errno=exc.errno) from exc
    progress(source.end)
    return hasher.text()
