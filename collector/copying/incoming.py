"""Receives a core, or another stream that comes from elsewhere, into a file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing

import msgspec

from collector.copying import stream
from collector.copying.buffers import Buffer, lease
from collector.copying.hashing import Hasher
from collector.copying.rate.throttle import Throttle, always_go, ignore, limiter_for
from collector.copying.receiver import Receiver
from collector.copying.schedule import Schedule
from collector.copying.sink import Sink
from collector.copying.stream_writer import BUFFER_BYTES, StreamWriter
from collector.model.artifact import Incoming
from collector.model.copying import CopyReport, Digest, Feedback

BUFFERS = 3
"""Two are received into, and one is written; with zstd the third holds what comes out of it."""

LEVEL = 1
PIECE_BYTES = 128 << 10
"""What zstd is given at once, so that what it returns is not longer than that either."""


def receive(
    incoming: Incoming,
    *,
    directory_fd: int,
    name: str,
    rate: str | int = "adaptive",
    room_bytes: int | None = None,
    ask: Callable[[], Feedback] = always_go,
    progress: Callable[[int], None] = ignore,
) -> CopyReport:
    """
    Write what comes to *name*, bypassing the page cache, until it ends, and sync it.

    Args:
        incoming: What comes, and what to do with it.
        directory_fd: The destination's directory; the caller syncs it.
        name: The destination's name; ``NAME.part`` meanwhile, mode 0600.
        rate: As in `CopySettings`.
        room_bytes: Maximum space on the disk. Nobody knows beforehand what the holes save: a stream that turns out to
            need more ends there.
        ask: The gate; asked before each MiB, and every 50 ms while nothing comes.
        progress: Called with the bytes written so far.

    Returns:
        What was written; *truncated* after STOP, for lack of room or time, after ENOSPC, EDQUOT or EIO midway, at the
        limit, or if the stream ended early. After STOP, or for lack of room or time, `Incoming.instead` takes its place
        if there is one.

    Raises:
        CopyError: If nothing could be written; nothing is left behind.
    """
    started, cpu = time.monotonic(), time.process_time()
    device = os.fstat(directory_fd).st_dev
    size = min(incoming.size_bytes or 0, incoming.limit_bytes or sys.maxsize) or None
    schedule = Schedule(ask=ask, size_bytes=size, deadline_s=incoming.deadline_s)
    throttle = Throttle(limiter=limiter_for(rate, device), ask=schedule)
    with lease(BUFFERS, BUFFER_BYTES) as buffers, closing(Sink(directory_fd, name)) as sink:
        holes = incoming.holes and not incoming.compress
        hasher = Hasher(Digest.XXH3_128)
        writer = StreamWriter(name, sink, throttle, hasher, progress, holes=holes, room_bytes=room_bytes)
        received, out = (buffers[:-1], buffers[-1]) if incoming.compress else (buffers, None)
        with closing(Receiver(incoming, received, lambda: throttle.wait(0))) as receiver:
            blocks = schedule.counted(receiver)
            writer.write(blocks if out is None else stream.fill(out, compressed(blocks)))
        instead = incoming.instead if writer.stopped or receiver.stopped else None
        if instead is None:
            writer.publish()
    report = writer.report(seconds=time.monotonic() - started, cpu_seconds=time.process_time() - cpu)
    reason = writer.reason or receiver.reason
    if instead:  # without the gate, which has spoken: what remains is little, and must not be lost
        pieces, reason = instead(str(reason), schedule.rate)
        report = stream.write(pieces, directory_fd=directory_fd, name=name, rate=rate, progress=progress)
        reason = "; ".join(filter(None, (reason, report.truncated_reason)))
    return msgspec.structs.replace(report, truncated=reason is not None, truncated_reason=reason)


def compressed(blocks: Iterable[tuple[Buffer, int]]) -> Iterator[memoryview]:
    """Yield one frame of zstd."""
    from collector.host.compression import zstd  # noqa: PLC0415 - only when it is asked for

    compressor = zstd.ZstdCompressor(level=LEVEL)
    for buffer, used in blocks:
        for at in range(0, used, PIECE_BYTES):
            yield memoryview(compressor.compress(buffer.view[at : min(used, at + PIECE_BYTES)]))
    yield memoryview(compressor.flush())
