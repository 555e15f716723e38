"""
Evidence in memory: read within the first moments, written when there is a directory for it.

The memory is a worker's copy buffers, which its supervisor holds, too: what was read outlives the worker that the
next read may cost. One record after another, each a prefix, the artifact's bytes, and a head that says what they are;
the prefix is written last, so that whoever reads the memory of a dead worker finds whole records only.
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
from collector.copying.stream import drain
from collector.model.artifact import Artifact, Bulk, HardLink, SourceInfo, Truncated
from collector.model.errors import CopyError, StepError

PREFIX = struct.Struct("<II")


class FullError(CopyError):
    """There is no room left: the artifact is not in the spool, what came before it is."""


class SpoolRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    What is known of an artifact whose bytes stand before it.

    *read_s* is when it was read, since the epoch; *cut* is why its stream ended early.
    """

    step: str
    path: str
    read_s: float
    media: str
    source: SourceInfo | None = None
    truncated: bool = False
    cut: str = ""


class Spool:
    """
    The writer's side.

    Args:
        memory: `SPOOL_BYTES` that the supervisor holds, too.
        fresh: Begin anew; otherwise go on behind what is there.
    """

    def __init__(self, memory: memoryview, *, fresh: bool) -> None:
        self._memory = memory
        self._end = 0
        if fresh:
            PREFIX.pack_into(memory, 0, 0, 0)
        else:
            self._end = sum(PREFIX.size + len(body) + size for _, body, size in _records(memory))

    def put(self, step: str, artifact: Artifact) -> None:
        """
        Read *artifact* into the memory.

        Raises:
            FullError: If it does not fit.
            Exception: Whatever its stream raises, after what came before it is recorded.
        """
        read_s = time.time()
        body = artifact.body
        if isinstance(body, Bulk | HardLink):
            raise TypeError("a file is copied, never read into memory")
        sized = _Pour(self._memory, self._end + PREFIX.size)
        reason, raised = drain((body,) if isinstance(body, bytes) else body, sized.add)
        head = SpoolRecord(
            step=step,
            path=str(artifact.path),
            read_s=read_s,
            media=artifact.media,
            source=artifact.source,
            truncated=artifact.truncated,
            cut=reason or "",
        )
        text = msgspec.json.encode(head)
        sized.add(memoryview(text))
        PREFIX.pack_into(self._memory, sized.end, 0, 0)
        PREFIX.pack_into(self._memory, self._end, sized.end - len(text) - self._end - PREFIX.size, len(text))
        self._end = sized.end
        if raised:
            raise raised


class _Pour:
    """Adds pieces to the memory; leaves room for the prefix of the next record."""

    def __init__(self, memory: memoryview, start: int) -> None:
        self._memory = memory
        self.end = start

    def add(self, piece: memoryview) -> None:
        end = self.end + len(piece)
        if end + PREFIX.size > len(self._memory):
            raise FullError("the memory for evidence is full")
        self._memory[self.end : end] = piece
        self.end = end


@contextlib.contextmanager
def opened(fd: int) -> Iterator[Iterator[tuple[SpoolRecord, memoryview]]]:
    """
    Map the memory behind *fd*, one that a `Spool` was written to, and give its records.

    Raises:
        StepError: If something else than a spool was written there.
    """
    memory = mmap.mmap(fd, SPOOL_BYTES, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    view = memoryview(memory)
    records = _records(view)
    try:
        yield ((head, body) for head, body, _ in records)
    finally:
        records.close()
        with contextlib.suppress(BufferError):  # the frames of an error on its way up still hold pieces
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
    """Yield each record's head, its bytes, and the length of the head as it stands there."""
    at = 0
    while True:
        size, head_size = PREFIX.unpack_from(memory, at)
        start, end = at + PREFIX.size, at + PREFIX.size + size
        if not head_size:
            return
        if end + head_size + PREFIX.size > len(memory):
            raise StepError("the memory for evidence was damaged")
        try:
            head = msgspec.json.decode(memory[end : end + head_size], type=SpoolRecord)
        except msgspec.DecodeError as exc:
            raise StepError(f"the memory for evidence was damaged: {exc}") from exc
        with memory[start:end] as body:
            yield head, body, head_size
        at = end + head_size
