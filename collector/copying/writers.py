"""The writers of one copy: they take chunks in order, and write them side by side."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from collector.copying.buffers import Buffer
from collector.copying.hashing import Hasher
from collector.copying.plan import Chunk
from collector.copying.rate.throttle import Steering, Stopped
from collector.copying.reader import Reader
from collector.copying.sink import Sink
from collector.copying.source import PAGE, Source, SourceError
from collector.copying.zero_copy import Carrier, Mapping, Pipe, Windows
from collector.model.artifact import Method


@dataclass(slots=True)
class Outcome:
    """
    How far the writers came.

    *end* is where the copy ends in the source: all before it is copied or a hole. *reason* says why
    that is not the source's end; *error* is the kernel's, where that is why.
    """

    end: int
    data_bytes: int = 0
    extents: int = 0
    fallbacks: int = 0
    reason: str | None = None
    error: BaseException | None = None


@dataclass(slots=True, kw_only=True)
class Crew:
    """
    Writers that share a plan.

    Chunks are handed out in order and all that are handed out are finished, so that whatever stops
    the copy leaves a file without gaps. With a *hasher* they are also read in order, under the lock,
    and only the writes overlap: the digest is of the very bytes that are written.
    """

    source: Source
    reader: Reader
    sink: Sink
    plan: Iterator[Chunk]
    method: Method
    steering: Steering
    hasher: Hasher | None
    progress: Callable[[int], None]
    outcome: Outcome = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _closed: bool = field(init=False, default=False)
    _windows: Windows = field(init=False)
    _last: Chunk | None = field(init=False, default=None)
    _moved: int = field(init=False, default=0)
    _kept: int | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.outcome = Outcome(self.source.end)
        self._windows = Windows(self.source)

    def run(self, buffers: list[Buffer]) -> Outcome:
        """Write all, one writer per buffer, the caller's thread among them."""
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
                self._windows.close()
        self.outcome.data_bytes = self._moved if self._kept is None else self._kept
        if self.outcome.reason is None:
            self._finish()
        return self.outcome

    def _finish(self) -> None:
        """Look what became of the hole at the end: a source that shrank has no data there, but is not all of it."""
        last = self._last.end if self._last else self.source.start
        size = self.source.shrunk() if last < self.source.end else None
        if size is not None:
            self.outcome.reason, self.outcome.end = f"the source shrank to {size} bytes", max(last, size)
        self._digest_hole(self._last, self.outcome.end)

    def _work(self, buffer: Buffer) -> None:
        carrier = None
        try:
            carrier = self._carrier(len(buffer.view))
            while (taken := self._take(buffer)) is not None:
                self._move(*taken, buffer, carrier)
        except Exception as exc:  # noqa: BLE001 - what the gate's or the caller's callback raised; raised again by copy()
            self._stop(None, 0, reason=str(exc), error=exc)
        finally:
            if carrier:
                carrier.close()

    def _carrier(self, size: int) -> Carrier | None:
        match self.method:
            case Method.SPLICE:
                return Pipe(self.source, self.sink, size)
            case Method.MMAP:
                return Mapping(self.source, self.sink, self._windows)
        return None

    def _take(self, buffer: Buffer) -> tuple[Chunk, int] | None:
        """Return the next chunk and, where a digest is computed, how much of it is in *buffer*."""
        with self._lock:
            chunk = None if self._closed else next(self.plan, None)
            if chunk is None:
                self._closed = True
                return None
            try:
                self.steering.turn(chunk.size)
            except Stopped as exc:
                self._closed = True
                self.outcome.reason = exc.reason or "stopped by the gate"
                self.outcome.end = self._last.end if self._last else self.source.start
                return None
            try:
                return chunk, self._take_up(chunk, buffer)
            except OSError as exc:
                self._closed, error = True, exc
        self._stop(chunk, 0, reason=blame(error, chunk), error=error)
        return None

    def _take_up(self, chunk: Chunk, buffer: Buffer) -> int:
        last = self._last
        self.outcome.extents += last is None or last.extent is not chunk.extent
        got = 0
        if self.hasher:
            self._digest_hole(last, chunk.start)
            got = self.reader.read(buffer, chunk.start, chunk.size)
            self.hasher.update(buffer.view[:got])
            self._closed = got < chunk.size
        self._last = chunk
        return got

    def _digest_hole(self, last: Chunk | None, end: int) -> None:
        """Digest what lies between chunks; whoever listens to the progress may end the copy there, too."""
        if self.hasher:
            start = last.end if last else self.source.start
            self.hasher.zeros(end - start, meanwhile=lambda: self.progress(self._moved))

    def _move(self, chunk: Chunk, got: int, buffer: Buffer, carrier: Carrier | None) -> None:
        try:
            if self.hasher is None:
                if self._carry(chunk, carrier):
                    got = chunk.size
                else:
                    got = self.reader.read(buffer, chunk.start, chunk.size)
                    self._write(buffer, got, chunk)
            else:
                self._write(buffer, got, chunk)
        except OSError as exc:
            self._stop(chunk, 0, reason=blame(exc, chunk), error=exc)
            return
        with self._lock:
            self._moved += got
            self.progress(self._moved)
        if got < chunk.size:
            self._stop(chunk, got, reason=f"the source shrank below {chunk.end} bytes")

    def _write(self, buffer: Buffer, got: int, chunk: Chunk) -> None:
        """Write a buffer, its tail padded with zeros; the padding is cut off at the end."""
        size = -(-got // self.sink.align) * self.sink.align
        buffer.view[got:size] = bytes(size - got)
        self._timed(buffer.address, size, chunk)

    def _carry(self, chunk: Chunk, carrier: Carrier | None) -> bool:
        """Write a chunk without copying it; False if it has to go through the buffer."""
        if carrier is None or chunk.size % PAGE:
            return False
        started = time.monotonic()
        if carrier.carry(chunk, chunk.start - self.source.start):
            self.steering.done(chunk.size, time.monotonic() - started)
            return True
        with self._lock:
            self.outcome.fallbacks += chunk.solid  # one that spans holes never goes by mapping
        return False

    def _timed(self, address: int, size: int, chunk: Chunk) -> None:
        started = time.monotonic()
        self.sink.write(address, size, chunk.start - self.source.start)
        self.steering.done(size, time.monotonic() - started)

    def _stop(self, chunk: Chunk | None, got: int, *, reason: str, error: BaseException | None = None) -> None:
        """End the copy *got* bytes into *chunk*; the lowest end counts."""
        with self._lock:
            self._closed = True
            end = chunk.start + got if chunk else self.source.start
            if self.outcome.reason is None or end < self.outcome.end:
                self.outcome.reason, self.outcome.error, self.outcome.end = reason, error, end
                self._kept = chunk.before + got if chunk else 0


def blame(error: OSError, chunk: Chunk) -> str:
    """Say what failed, and where."""
    which = "source" if isinstance(error, SourceError) else "destination"
    return f"{error.strerror} at byte {chunk.start} of the {which}"


def join(threads: list[threading.Thread]) -> None:
    """Wait for *threads*, also through a second Ctrl-C: none may write to a descriptor that is closed by then."""
    interrupt: BaseException | None = None
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except BaseException as exc:  # noqa: BLE001 - raised again below
                interrupt = exc
    if interrupt:
        raise interrupt
