"""Writes what has no file of its own, small texts and streams of unknown length, bypassing the page cache."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing

import msgspec

from collector.copying.buffers import Buffer, lease
from collector.copying.deferred_sync import SMALL_BYTES
from collector.copying.hashing import Hasher
from collector.copying.rate.throttle import Throttle, always_go, ignore, limiter_for
from collector.copying.sink import Sink
from collector.copying.stream_writer import BUFFER_BYTES, StreamWriter
from collector.model.artifact import Truncated
from collector.model.copying import CopyReport, Digest, Feedback


def write(
    pieces: Iterable[bytes | memoryview],
    *,
    directory_fd: int,
    name: str,
    rate: str | int = "adaptive",
    digest: Digest = Digest.XXH3_128,
    ask: Callable[[], Feedback] = always_go,
    progress: Callable[[int], None] = ignore,
) -> CopyReport:
    """
    Write *pieces* to *name* through one buffer of 1 MiB.

    A file of at most 64 KiB is not held back, and is durable only after `deferred_sync.sync_all`, which the caller
    calls at the end of a step; a larger one is durable when this returns.

    Args:
        pieces: A stream; it ends by itself, by `Truncated`, or by an error.
        directory_fd: The destination's directory; the caller syncs it.
        name: The destination's name; ``NAME.part`` meanwhile, mode 0600.
        rate: As in `CopySettings`.
        digest: Computed as the bytes are written.
        ask: The gate; asked before each MiB.
        progress: Called with the bytes written so far.

    Returns:
        What was written; *truncated* after `Truncated`, an `OSError` of the stream, STOP, or ENOSPC, EDQUOT or EIO
        midway.

    Raises:
        CopyError: If nothing could be written; nothing is left behind.
        Exception: Any other that the stream raises, after what came before it is published.
    """
    started, cpu = time.monotonic(), time.process_time()
    stream = SourceStream(pieces)
    throttle = Throttle(limiter=limiter_for(rate, os.fstat(directory_fd).st_dev), ask=ask)
    hasher = Hasher(digest) if digest is not Digest.NONE else None
    with lease(1, BUFFER_BYTES) as (buffer,):
        blocks = fill(buffer, stream)
        _, used = next(blocks, (buffer, 0))
        with closing(Sink(directory_fd, name, direct=used > SMALL_BYTES)) as sink:
            writer = StreamWriter(name, sink, throttle, hasher, progress)
            if used > SMALL_BYTES:
                writer.write(itertools.chain(((buffer, used),), blocks))
                writer.publish()
            else:
                writer.write_small(buffer, used)
    if stream.raised:
        raise stream.raised
    report = writer.report(seconds=time.monotonic() - started, cpu_seconds=time.process_time() - cpu)
    if stream.reason and not report.truncated:
        return msgspec.structs.replace(report, truncated=True, truncated_reason=stream.reason)
    return report


class SourceStream:
    """
    Iterates over a stream until it ends for whatever reason.

    Attributes:
        reason: Why it is incomplete; ``None`` if it is not.
        raised: An exception of the stream that the caller has to raise once what came before it is kept.
    """

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._pieces = pieces
        self.reason: str | None = None
        self.raised: Exception | None = None

    def __iter__(self) -> Iterator[memoryview]:
        try:
            for piece in self._pieces:
                yield memoryview(piece)
        except Truncated as exc:
            self.reason = exc.reason
        except OSError as exc:
            self.reason = f"the source failed: {exc.strerror or exc}"
        except Exception as exc:  # noqa: BLE001 - the caller raises it
            self.reason, self.raised = str(exc), exc


def fill(buffer: Buffer, pieces: Iterable[memoryview]) -> Iterator[tuple[Buffer, int]]:
    """Copy *pieces* to *buffer*, from its start again each time that it is full; yield how many bytes it then holds."""
    view, used = buffer.view, 0
    for piece in pieces:
        left = piece
        while left:
            count = min(len(view) - used, len(left))
            view[used : used + count] = left[:count]
            used += count
            left = left[count:]
            if used == len(view):
                yield buffer, used
                used = 0
    if used:
        yield buffer, used
