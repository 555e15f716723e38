"""Writing what has no file of its own: small texts and streams of unknown length, without page cache."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from collector.copying import deferred_sync
from collector.copying.buffers import Buffer, lease
from collector.copying.hashing import Hasher
from collector.copying.rate.throttle import Steering, Stopped, always_go, ignore, pace_for
from collector.copying.sink import KEPT, Sink, failed
from collector.model.artifact import Method, Truncated
from collector.model.copying import CopyReport, Digest, Feedback
from collector.model.errors import CopyError

BUFFER_BYTES = 1 << 20
SMALL_BYTES = 64 << 10
"""Up to here a file is written through the cache and dropped from it at the next sync of many:
60 files of 300 bytes took 10 ms and 62 flushes so, 33 ms and 124 flushes with O_DIRECT and a sync each."""


def write(
    pieces: Iterable[bytes | memoryview],
    *,
    directory_fd: int,
    name: str,
    digest: Digest = Digest.XXH3_128,
    ask: Callable[[], Feedback] = always_go,
    progress: Callable[[int], None] = ignore,
    limit_bytes: int | None = None,
) -> CopyReport:
    """
    Write *pieces* to *name* through one buffer of 1 MiB.

    A file of at most 64 KiB is durable only after `deferred_sync.sync_all`, which is the caller's to call at the
    end of a step; a larger one is when this returns.

    Args:
        pieces: A stream; it ends by itself, by `Truncated`, or by an error.
        directory_fd: Of the destination; syncing it stays the caller's.
        name: Of the destination; ``NAME.part`` meanwhile, mode 0600.
        digest: Computed as the bytes are written.
        ask: Advice before each full buffer.
        progress: Told the bytes written so far.
        limit_bytes: Most bytes to keep.

    Returns:
        What became of it; *truncated* after `Truncated`, an `OSError` of the stream, STOP, the limit,
        or ENOSPC, EDQUOT or EIO midway.

    Raises:
        CopyError: If nothing could be written; nothing is left behind.
        Exception: Whatever else the stream raises, after what came before it is published.
    """
    started, cpu = time.monotonic(), time.process_time()
    steering = Steering(pace=pace_for("adaptive", os.fstat(directory_fd).st_dev), ask=ask)
    hasher = Hasher(digest) if digest is not Digest.NONE else None
    with lease(1, BUFFER_BYTES) as (buffer,):
        spout = Spout(directory_fd, name, buffer, steering, hasher, progress, limit_bytes)
        sink = spout.run(pieces)
    if spout.raised:
        raise spout.raised
    return CopyReport(
        size_bytes=spout.size,
        data_bytes=spout.size,
        extents=min(1, spout.size),
        method=Method.WRITE,
        method_reason="",
        direct=sink.direct,
        direct_reason=sink.direct_reason,
        chunk_bytes=BUFFER_BYTES,
        writers=1,
        seconds=time.monotonic() - started,
        cpu_seconds=time.process_time() - cpu,
        digest=hasher.text() if hasher and not spout.lost else None,
        truncated=spout.reason is not None,
        truncated_reason=spout.reason,
        pauses=steering.pauses,
        slow_downs=steering.slow_downs,
        gate_reason=steering.gate_reason,
    )


def drain(
    pieces: Iterable[bytes | memoryview], take: Callable[[memoryview], None]
) -> tuple[str | None, Exception | None]:
    """
    Give *pieces* to *take*, one after the other, until they end in whatever way.

    Returns:
        Why these were not all, ``None`` if they were; and what the stream raised that its owner must hear.

    Raises:
        CopyError: The destination's own: nothing of it is kept.
    """
    try:
        for piece in pieces:
            take(memoryview(piece))
    except (Truncated, Stopped) as exc:
        return exc.reason or "stopped by the gate", None
    except Full as exc:
        return str(exc), None
    except OSError as exc:
        return f"the source failed: {exc.strerror or exc}", None
    except CopyError:
        raise
    except Exception as exc:  # noqa: BLE001 - the owner's; raised again once what came before is kept
        return str(exc), exc
    return None, None


class Full(Exception):  # noqa: N818 - a signal, not an error
    """The limit is reached, or the disk takes no more; the message says which."""


@dataclass(slots=True)
class Spout:
    """
    One stream on its way through one buffer.

    *size* is what reached the file, *reason* why that is not all, *raised* what the caller must hear.
    """

    directory_fd: int
    name: str
    buffer: Buffer
    steering: Steering
    hasher: Hasher | None
    progress: Callable[[int], None]
    limit: int | None
    size: int = 0
    reason: str | None = None
    raised: Exception | None = None
    lost: bool = False
    _used: int = 0
    _sink: Sink | None = field(default=None)

    def run(self, pieces: Iterable[bytes | memoryview]) -> Sink:
        """Write all pieces and publish the file."""
        try:
            self._pour(pieces)
            return self._finish()
        except BaseException:
            if self._sink and not self._sink.published:
                self._sink.discard()
            raise

    def _pour(self, pieces: Iterable[bytes | memoryview]) -> None:
        self.reason, self.raised = drain(pieces, self._add)

    def _add(self, piece: memoryview) -> None:
        while piece:
            room = min(len(self.buffer.view) - self._used, len(piece))
            if self.limit is not None:
                room = min(room, self.limit - self.size - self._used)
                if room <= 0:
                    raise Full(f"limited to {self.limit} bytes")
            self.buffer.view[self._used : self._used + room] = piece[:room]
            self._used += room
            piece = piece[room:]
            if self._used == len(self.buffer.view):
                self.steering.turn(self._used)
                self._flush()

    def _flush(self) -> None:
        used, self._used = self._used, 0
        if self._sink is None:
            self._sink = Sink(self.directory_fd, self.name)
            self.steering.flush, self.steering.flushes = self._sink.flush, self._sink.flushes
        sink = self._sink
        padded = -(-used // sink.align) * sink.align
        self.buffer.view[used:padded] = bytes(padded - used)
        started = time.monotonic()
        try:
            sink.write(self.buffer.address, padded, self.size)
        except OSError as exc:
            if exc.errno not in KEPT or not self.size:
                raise failed(exc, f"cannot write {self.name!r}") from exc
            self.lost = True
            raise Full(f"{exc.strerror} at byte {self.size}") from exc
        self.steering.done(padded, time.monotonic() - started)
        self._count(used)

    def _count(self, used: int) -> None:
        if self.hasher:
            self.hasher.update(self.buffer.view[:used])
        self.size += used
        self.progress(self.size)

    def _finish(self) -> Sink:
        if self._sink is None and self._used <= SMALL_BYTES:
            return self._small()
        try:
            if self._used:
                self._flush()
        except Full as exc:
            self.reason = self.reason or str(exc)
        assert self._sink is not None  # noqa: S101 - a flush opens it
        self._sink.publish(self.size, failing=self.lost)
        self._sink.close()
        return self._sink

    def _small(self) -> Sink:
        sink = self._sink = Sink(self.directory_fd, self.name, direct=False)
        try:
            sink.put(self.buffer.view[: self._used])
        except OSError as exc:
            raise failed(exc, f"cannot write {self.name!r}") from exc
        sink.publish(self._used, sync=False)
        deferred_sync.later(sink.fd, self._used)
        self._count(self._used)
        return sink
