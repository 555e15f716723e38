"""Writes buffers to a file one after the other: what a stream of unknown length becomes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from collector.copying import deferred_sync
from collector.copying.buffers import Buffer
from collector.copying.hashing import LONG_HOLES, Hasher
from collector.copying.plan import PAGE
from collector.copying.rate.throttle import Stopped, Throttle
from collector.copying.sink import KEPT, Sink, failed
from collector.copying.zero_pages import data_runs
from collector.model.copying import CopyReport
from collector.model.units import mib

BUFFER_BYTES = 1 << 20


@dataclass(slots=True)
class StreamWriter:
    """
    Writes buffers to a file, and publishes it.

    Args:
        holes: Leave pages of zeros out.
        room_bytes: Most space on the disk; ``None`` for as much as there is.

    Attributes:
        size: Bytes of the file so far, *data_bytes* of them data, in *extents* pieces.
        reason: Why that is not everything; *stopped* by the gate or for lack of room, or the disk is *failing*.
    """

    name: str
    sink: Sink
    throttle: Throttle
    hasher: Hasher | None
    progress: Callable[[int], None]
    holes: bool = False
    room_bytes: int | None = None
    size: int = 0
    data_bytes: int = 0
    extents: int = 0
    reason: str | None = None
    stopped: bool = False
    failing: bool = False
    _data_end: int = field(init=False, default=-1)

    def write(self, blocks: Iterable[tuple[Buffer, int]]) -> None:
        """
        Write each of *blocks*, a buffer and the number of bytes that it holds, all but the last `BUFFER_BYTES`.

        Raises:
            CopyError: If not even the first could be written.
        """
        self.throttle.flush, self.throttle.flushes = self.sink.flush, self.sink.flushes
        for buffer, used in blocks:
            if not self._write_block(buffer, used) or self.reason:
                break

    def _write_block(self, buffer: Buffer, used: int) -> bool:
        """Write *used* bytes; return False if the disk takes no more."""
        padded = -(-used // self.sink.align) * self.sink.align
        buffer.view[used:padded] = bytes(padded - used)
        runs = list(data_runs(buffer, used, max(self.sink.align, PAGE))) if self.holes else [(0, used)]
        data_bytes = sum(high - low for low, high in runs)
        if self.room_bytes is not None and self.data_bytes + data_bytes > self.room_bytes:
            self.reason = f"the disk has {mib(self.room_bytes)} free for it beyond archive.reserve"
            self.stopped = True
            return False
        try:
            self.throttle.wait(data_bytes)
        except Stopped as exc:  # what was read already is kept; a part of a buffer is the last one
            if used == BUFFER_BYTES:
                self.reason, self.stopped = exc.reason or "stopped by the gate", True
        started = time.monotonic()
        try:
            for low, high in runs:
                self._write_run(buffer, low, high)
        except OSError as exc:
            if exc.errno not in KEPT or not self.size:
                raise failed(exc, f"cannot write {self.name!r}") from exc
            self.reason, self.failing = f"{exc.strerror} at byte {self.size}", True
            return False
        if runs:
            self.throttle.record(data_bytes, time.monotonic() - started)
        self.data_bytes += data_bytes
        self._count(buffer, used)
        return True

    def _write_run(self, buffer: Buffer, low: int, high: int) -> None:
        padded = -(-(high - low) // self.sink.align) * self.sink.align
        self.sink.write(buffer.address + low, padded, self.size + low)
        self.extents += self.size + low != self._data_end
        self._data_end = self.size + high

    def publish(self) -> None:
        """Sync the file and give it its name."""
        self.sink.publish(self.size, failing=self.failing)

    def write_small(self, buffer: Buffer, used: int) -> None:
        """Write *used* bytes through the page cache, to be synced with others, and publish them."""
        try:
            self.sink.put(buffer.view[:used])
        except OSError as exc:
            raise failed(exc, f"cannot write {self.name!r}") from exc
        self.sink.publish(used, sync=False)
        deferred_sync.later(os.dup(self.sink.fd), used)
        self.data_bytes, self.extents = used, min(1, used)
        self._count(buffer, used)

    def _count(self, buffer: Buffer, used: int) -> None:
        if self.hasher:
            self.hasher.update(buffer.view[:used])
        self.size += used
        self.progress(self.size)

    def report(self, *, seconds: float, cpu_seconds: float) -> CopyReport:
        """Return what was written; long holes are digested when the incident is sealed, without their zeros."""
        digested = self.hasher and not self.failing and self.size - self.data_bytes <= LONG_HOLES
        return CopyReport(
            size_bytes=self.size,
            data_bytes=self.data_bytes,
            extents=self.extents,
            direct=self.sink.direct,
            direct_reason=self.sink.direct_reason,
            chunk_bytes=BUFFER_BYTES,
            writers=1,
            seconds=seconds,
            cpu_seconds=cpu_seconds,
            digest=self.hasher.text() if self.hasher and digested else None,
            truncated=self.reason is not None,
            truncated_reason=self.reason,
            pauses=self.throttle.pauses,
            slow_downs=self.throttle.slow_downs,
            gate_reason=self.throttle.gate_reason,
        )
