"""Writes what has no file of its own, small texts and streams of unknown length, bypassing the page cache."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from collector.copying import deferred_sync
from collector.copying.buffers import Buffer, lease
from collector.copying.hashing import Hasher
from collector.copying.rate.throttle import Stopped, Throttle, always_go, ignore, limiter_for
from collector.copying.sink import KEPT, Sink, failed
from collector.model.artifact import Truncated
from collector.model.copying import CopyReport, Digest, Feedback

BUFFER_BYTES = 1 << 20
SMALL_BYTES = 64 << 10
"""Up to this size a file is written through the cache and dropped from it when many are synced together:
60 files of 300 bytes took 10 ms and 62 flushes that way, 33 ms and 124 flushes with O_DIRECT and a sync each."""


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
        blocks = fill(buffer.view, stream)
        used = next(blocks, 0)
        with closing(Sink(directory_fd, name, direct=used > SMALL_BYTES)) as sink:
            writer = StreamWriter(name, sink, buffer, throttle, hasher, progress)
            if used > SMALL_BYTES:
                writer.write(itertools.chain((used,), blocks))
            else:
                writer.write_small(used)
    if stream.raised:
        raise stream.raised
    reason = writer.reason or stream.reason
    return CopyReport(
        size_bytes=writer.size,
        data_bytes=writer.size,
        extents=min(1, writer.size),
        direct=sink.direct,
        direct_reason=sink.direct_reason,
        chunk_bytes=BUFFER_BYTES,
        writers=1,
        seconds=time.monotonic() - started,
        cpu_seconds=time.process_time() - cpu,
        digest=hasher.text() if hasher and not writer.failing else None,
        truncated=reason is not None,
        truncated_reason=reason,
        pauses=throttle.pauses,
        slow_downs=throttle.slow_downs,
        gate_reason=throttle.gate_reason,
    )


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


def fill(view: memoryview, pieces: Iterable[memoryview]) -> Iterator[int]:
    """Copy *pieces* to *view*, from its start again each time that it is full; yield how many bytes it then holds."""
    used = 0
    for piece in pieces:
        left = piece
        while left:
            count = min(len(view) - used, len(left))
            view[used : used + count] = left[:count]
            used += count
            left = left[count:]
            if used == len(view):
                yield used
                used = 0
    if used:
        yield used


@dataclass(slots=True)
class StreamWriter:
    """
    Writes what is in a buffer to a file, and publishes it.

    *size* is what was written, *reason* why that is not everything; the disk may be *failing*.
    """

    name: str
    sink: Sink
    buffer: Buffer
    throttle: Throttle
    hasher: Hasher | None
    progress: Callable[[int], None]
    size: int = 0
    reason: str | None = None
    failing: bool = False

    def write(self, blocks: Iterable[int]) -> None:
        """Write the buffer once for each of *blocks*, the number of bytes that it holds at that time."""
        self.throttle.flush, self.throttle.flushes = self.sink.flush, self.sink.flushes
        for used in blocks:
            try:
                self.throttle.wait(used)
            except Stopped as exc:  # what was read already is kept; a part of a buffer is the last one
                if used == BUFFER_BYTES:
                    self.reason = exc.reason or "stopped by the gate"
            if not self._write_block(used) or self.reason:
                break
        self.sink.publish(self.size, failing=self.failing)

    def _write_block(self, used: int) -> bool:
        """Write *used* bytes; return False if the disk takes no more."""
        padded = -(-used // self.sink.align) * self.sink.align
        self.buffer.view[used:padded] = bytes(padded - used)
        started = time.monotonic()
        try:
            self.sink.write(self.buffer.address, padded, self.size)
        except OSError as exc:
            if exc.errno not in KEPT or not self.size:
                raise failed(exc, f"cannot write {self.name!r}") from exc
            self.reason, self.failing = f"{exc.strerror} at byte {self.size}", True
            return False
        self.throttle.record(padded, time.monotonic() - started)
        self._count(used)
        return True

    def write_small(self, used: int) -> None:
        """Write *used* bytes through the page cache, to be synced with others."""
        try:
            self.sink.put(self.buffer.view[:used])
        except OSError as exc:
            raise failed(exc, f"cannot write {self.name!r}") from exc
        self.sink.publish(used, sync=False)
        deferred_sync.later(os.dup(self.sink.fd), used)
        self._count(used)

    def _count(self, used: int) -> None:
        if self.hasher:
            self.hasher.update(self.buffer.view[:used])
        self.size += used
        self.progress(self.size)
