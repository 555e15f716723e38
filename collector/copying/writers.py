"""The writers of one copy: threads that take chunks in order and write them concurrently."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from collector.copying.buffers import Buffer
from collector.copying.hashing import Hasher
from collector.copying.plan import PAGE, Chunk
from collector.copying.rate.throttle import Stopped, Throttle
from collector.copying.sink import Sink
from collector.copying.source import Source, SourceError, SourceReader
from collector.copying.zero_copy import MappedPages, MappedWindows, Splice, ZeroCopy
from collector.model.artifact import Method


@dataclass(slots=True)
class WriteResult:
    """
    How far the writers got.

    *end* is where the copy ends in the source: everything before it is copied or a hole. *reason* says why that is not
    the source's end; *error* is the exception, if one is the cause.
    """

    end: int
    data_bytes: int = 0
    extents: int = 0
    fallbacks: int = 0
    reason: str | None = None
    error: BaseException | None = None


@dataclass(slots=True, kw_only=True)
class Writers:
    """
    Writers that share a plan.

    Chunks are handed out in order, and every chunk that is handed out is finished: whatever stops the copy, the file
    has no gaps. With a *hasher* chunks are also read in order, under the lock, and only the writes overlap: the digest
    is of exactly the bytes that are written.
    """

    source: Source
    reader: SourceReader
    sink: Sink
    plan: Iterator[Chunk]
    method: Method
    throttle: Throttle
    hasher: Hasher | None
    progress: Callable[[int], None]
    result: WriteResult = field(init=False)
    _lock: threading.RLock = field(init=False, default_factory=threading.RLock)
    _closed: bool = field(init=False, default=False)
    _windows: MappedWindows = field(init=False)
    _last: Chunk | None = field(init=False, default=None)
    _moved: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.result = WriteResult(self.source.end)
        self._windows = MappedWindows(self.source)

    def run(self, buffers: list[Buffer]) -> WriteResult:
        """Write everything with one writer per buffer, one of them in the calling thread."""
        others: list[threading.Thread] = []
        try:
            for buffer in buffers[1:]:
                thread = threading.Thread(target=self._work, args=(buffer,), daemon=True)
                with contextlib.suppress(RuntimeError):  # no memory for another thread: fewer writers
                    thread.start()
                    others.append(thread)
            self._work(buffers[0])
        finally:
            self._closed = True
            try:
                join(others)
            finally:
                self._windows.unmap_unused()
        if self.result.reason is None:
            self._finish()
        return self.result

    def _finish(self) -> None:
        """Check the hole at the end: a source that shrank has no data there either, but is not complete."""
        self.result.data_bytes = self._moved
        last = self._last_end
        size = self.source.shrunk() if last < self.source.end else None
        if size is not None:
            self.result.reason, self.result.end = f"the source shrank to {size} bytes", max(last, size)
        self._digest_hole(self.result.end)

    @property
    def _last_end(self) -> int:
        return self._last.end if self._last else self.source.start

    def _work(self, buffer: Buffer) -> None:
        zero_copy = None
        try:
            zero_copy = self._zero_copy(len(buffer.view))
            while (taken := self._take(buffer)) is not None:
                self._move(*taken, buffer, zero_copy)
        except Exception as exc:  # noqa: BLE001 - from the gate's or the caller's callback; copy() raises it again
            self._stop(self.source.start, 0, str(exc), exc)
        finally:
            if zero_copy:
                zero_copy.close()

    def _zero_copy(self, size: int) -> ZeroCopy | None:
        match self.method:
            case Method.SPLICE:
                return Splice(self.source, self.sink, size)
            case Method.MMAP:
                return MappedPages(self.source, self.sink, self._windows)
        return None

    def _take(self, buffer: Buffer) -> tuple[Chunk, int] | None:
        """Return the next chunk and, if there is a digest, how much of it is in *buffer*."""
        with self._lock:
            if self._closed or (chunk := next(self.plan, None)) is None:
                self._closed = True
                return None
            try:
                self.throttle.wait(chunk.size)
                return chunk, self._begin(chunk, buffer)
            except Stopped as exc:
                self._stop(self._last_end, chunk.before, exc.reason or "stopped by the gate")
            except OSError as exc:
                self._stop(chunk.start, chunk.before, describe_error(exc, chunk), exc)
            return None

    def _begin(self, chunk: Chunk, buffer: Buffer) -> int:
        """Read and digest *chunk* if there is a digest; return how much of it is in *buffer*."""
        self.result.extents += self._last is None or self._last.extent is not chunk.extent
        got = 0
        if self.hasher:
            self._digest_hole(chunk.start)
            got = self.reader.read(buffer, chunk.start, chunk.size)
            self.hasher.update(buffer.view[:got])
            self._closed = got < chunk.size
        self._last = chunk
        return got

    def _digest_hole(self, end: int) -> None:
        """Digest the hole after the last chunk; the progress callback may end the copy there too."""
        if self.hasher:
            self.hasher.zeros(end - self._last_end, meanwhile=lambda: self.progress(self._moved))

    def _move(self, chunk: Chunk, got: int, buffer: Buffer, zero_copy: ZeroCopy | None) -> None:
        """Write *chunk*, of which *got* bytes are in *buffer* if there is a digest."""
        try:
            if zero_copy and self._write_zero_copy(chunk, zero_copy):
                got = chunk.size
            else:
                if self.hasher is None:
                    got = self.reader.read(buffer, chunk.start, chunk.size)
                self._write(buffer, got, chunk)
        except OSError as exc:
            self._stop(chunk.start, chunk.before, describe_error(exc, chunk), exc)
            return
        with self._lock:
            self._moved += got
            self.progress(self._moved)
        if got < chunk.size:
            self._stop(chunk.start + got, chunk.before + got, f"the source shrank below {chunk.end} bytes")

    def _write(self, buffer: Buffer, got: int, chunk: Chunk) -> None:
        """Write a buffer, its tail padded with zeros; the padding is cut off at the end."""
        size = -(-got // self.sink.align) * self.sink.align
        buffer.view[got:size] = bytes(size - got)
        started = time.monotonic()
        self.sink.write(buffer.address, size, chunk.start - self.source.start)
        self.throttle.record(size, time.monotonic() - started)

    def _write_zero_copy(self, chunk: Chunk, zero_copy: ZeroCopy) -> bool:
        """Write a chunk without copying it; return False if it has to go through the buffer."""
        if chunk.size % PAGE:
            return False
        started = time.monotonic()
        if zero_copy.write(chunk, chunk.start - self.source.start):
            self.throttle.record(chunk.size, time.monotonic() - started)
            return True
        with self._lock:
            self.result.fallbacks += chunk.solid  # a chunk that spans holes is never mapped
        return False

    def _stop(self, end: int, data_bytes: int, reason: str, error: BaseException | None = None) -> None:
        """End the copy at *end* in the source, after *data_bytes*; the earliest end counts."""
        with self._lock:
            self._closed = True
            if self.result.reason is None or end < self.result.end:
                self.result.reason, self.result.error = reason, error
                self.result.end, self.result.data_bytes = end, data_bytes


def describe_error(error: OSError, chunk: Chunk) -> str:
    side = "source" if isinstance(error, SourceError) else "destination"
    return f"{error.strerror} at byte {chunk.start} of the {side}"


def join(threads: list[threading.Thread]) -> None:
    """Wait for *threads*, even through a second Ctrl-C: none may write to a descriptor that is closed by then."""
    interrupt: BaseException | None = None
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except BaseException as exc:  # noqa: BLE001 - raised again below
                interrupt = exc
    if interrupt:
        raise interrupt
