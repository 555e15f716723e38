"""Copies a regular file of at most 64 KiB through one buffer, to be synced together with others."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from collector.copying import deferred_sync
from collector.copying.buffers import lease
from collector.copying.deferred_sync import SMALL_BYTES
from collector.copying.hashing import Hasher
from collector.copying.rate.throttle import Stopped, Throttle
from collector.copying.sink import Sink, failed
from collector.copying.source import MergedExtents, Source, SourceError, SourceReader
from collector.model.copying import Digest


@dataclass(slots=True, kw_only=True)
class SmallCopy:
    """
    A copy with its holes and a digest, which costs nothing: the bytes are in the buffer.

    *size* and *data_bytes* are what was written, in so many *pieces*; *reason* says why that is not everything.
    """

    source: Source
    extents: MergedExtents
    sink: Sink
    throttle: Throttle
    reading: Throttle
    hasher: Hasher
    size: int = 0
    data_bytes: int = 0
    pieces: int = 0
    reason: str | None = None

    def run(self, name: str, progress: Callable[[int], None]) -> None:
        """
        Copy the file and give it its *name*; it is durable after `deferred_sync.sync_all`.

        Raises:
            CopyError: If nothing could be copied, or an earlier file not be synced.
        """
        with lease(1, SMALL_BYTES) as (buffer,):
            try:
                self.throttle.wait(self.source.size)
                with closing(SourceReader(self.source, self.reading)) as reader:
                    self.size = reader.read(buffer, self.source.start, self.source.size)
            except Stopped as exc:
                self.reason = exc.reason or "stopped by the gate"
            except SourceError as exc:
                raise failed(exc, f"cannot read the source of {name!r}") from exc
            if not self.reason and self.size < self.source.size:
                self.reason = f"the source shrank below {self.source.end} bytes"
            self._write(buffer.view[: self.size], name)
        self.sink.publish(self.size, sync=False)
        deferred_sync.later(os.dup(self.sink.fd), self.data_bytes, self.throttle.limiter)
        progress(self.data_bytes)

    def _write(self, content: memoryview, name: str) -> None:
        self.hasher.update(content)
        try:
            for extent, _ in self.extents:
                start = extent.start - self.source.start
                data = content[start : extent.end - self.source.start]
                self.sink.put(data, start)
                self.data_bytes += len(data)
                self.pieces += bool(data)
        except OSError as exc:
            raise failed(exc, f"cannot copy to {name!r}") from exc


def small_hasher(digest: Digest) -> Hasher:
    """Return what digests a small file: with XXH3 if nothing else is asked for, which saves sealing from reading it."""
    return Hasher(Digest.XXH3_128 if digest is Digest.NONE else digest)
