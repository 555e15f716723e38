"""
Evidence in memory: read in the first moments, written when the incident has a directory.

The memory is a worker's copy buffers, which its supervisor holds too, so that evidence outlives the worker. It is a
sequence of records: a prefix, the artifact's bytes, and a JSON head that describes them. The prefix is written last,
so that a reader of a dead worker's memory finds only complete records.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
import time
from collections.abc import Generator, Iterator
from pathlib import PurePosixPath

import msgspec

from collector.copying.buffers import SPOOL_BYTES
from collector.copying.stream import SourceStream
from collector.model.artifact import Artifact, Bulk, Incoming, SourceInfo, Truncated
from collector.model.decode import MalformedError, decode
from collector.model.errors import CopyError, StepError

PREFIX = struct.Struct("<II")
HEAD_BYTES = 8192
"""What is left for the head of an artifact of which only a part fits."""


class FullError(CopyError):
    """The artifact does not fit; those before it are in the spool."""


class SpoolRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    The head of an artifact, stored behind its bytes.

    *read_s* is when it was read, since the epoch; *cut* is why its stream ended early.
    """

    step: str
    path: str
    read_s: float
    media: str
    source: SourceInfo | None = None
    truncated: str = ""
    cut: str = ""


class Spool:
    """The writer's side: appends to *memory*, `SPOOL_BYTES` long; if *fresh*, first discards what is there."""

    def __init__(self, memory: memoryview, *, fresh: bool) -> None:
        self._memory = memory
        self._end = 0
        if fresh:
            PREFIX.pack_into(memory, 0, 0, 0)
        else:
            self._end = sum(PREFIX.size + len(body) + size for _, body, size in _records(memory))

    def put(self, step: str, artifact: Artifact, *, part: bool = False) -> None:
        """
        Read *artifact* into the memory; with *part*, keep what fits of it.

        Raises:
            FullError: If it does not fit.
            Exception: From its stream; what the stream yielded before that is recorded.
        """
        read_s = time.time()
        body = artifact.body
        if isinstance(body, Bulk | Incoming):
            raise TypeError("what the engine writes is never read into memory")
        start = at = self._end + PREFIX.size

        def add(piece: memoryview) -> None:
            nonlocal at
            if at + len(piece) + PREFIX.size > len(self._memory):  # room for the next prefix
                raise FullError("the memory for evidence is full")
            self._memory[at : at + len(piece)] = piece
            at += len(piece)

        stream = SourceStream((body,) if isinstance(body, bytes) else body)
        full = ""
        for piece in stream:
            room = len(self._memory) - at - HEAD_BYTES if part else len(piece)
            add(piece[: max(0, room)])
            if room < len(piece):
                full = f"the memory for evidence, {SPOOL_BYTES >> 20} MiB, is full"
                break
        head = SpoolRecord(
            step=step,
            path=str(artifact.path),
            read_s=read_s,
            media=artifact.media,
            source=artifact.source,
            truncated=artifact.truncated,
            cut=full or stream.reason or "",
        )
        size, text = at - start, msgspec.json.encode(head)
        add(memoryview(text))
        PREFIX.pack_into(self._memory, at, 0, 0)
        PREFIX.pack_into(self._memory, self._end, size, len(text))
        self._end = at
        if stream.raised:
            raise stream.raised


@contextlib.contextmanager
def opened(fd: int) -> Iterator[Iterator[tuple[SpoolRecord, memoryview]]]:
    """
    Map the memory *fd* that a `Spool` was written to, and yield an iterator over its records.

    Raises:
        StepError: If it is damaged.
    """
    memory = mmap.mmap(fd, SPOOL_BYTES, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    view = memoryview(memory)
    records = _records(view)
    try:
        yield ((head, body) for head, body, _ in records)
    finally:
        records.close()
        with contextlib.suppress(BufferError):  # the frames of an error being raised still hold pieces
            view.release()
            memory.close()


def artifact_of(head: SpoolRecord, body: memoryview) -> Artifact:
    """Return the artifact as its collector yielded it."""
    return Artifact(
        path=PurePosixPath(head.path),
        body=_stream(head, body),
        source=head.source,
        truncated=head.truncated,
        media=head.media,
    )


def _stream(head: SpoolRecord, body: memoryview) -> Iterator[memoryview]:
    yield body
    if head.cut:
        raise Truncated(head.cut)


def _records(memory: memoryview) -> Generator[tuple[SpoolRecord, memoryview, int], None, None]:
    """Yield each record's head, its bytes, and the stored length of the head."""
    at = 0
    while True:
        size, head_size = PREFIX.unpack_from(memory, at)
        start, end = at + PREFIX.size, at + PREFIX.size + size
        if not head_size:
            return
        if end + head_size + PREFIX.size > len(memory):
            raise StepError("the memory for evidence was damaged")
        try:
            head = decode(memory[end : end + head_size], SpoolRecord)
        except MalformedError as exc:
            raise StepError(f"the memory for evidence was damaged: {exc}") from exc
        with memory[start:end] as body:
            yield head, body, head_size
        at = end + head_size
