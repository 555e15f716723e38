"""
Files that were opened while the crashed process was held, to be copied once it is gone.

They wait as messages of a socket pair: the kernel keeps what is in flight open, so the supervisor holds one descriptor
for 4,096 files, and the worker that opened them may be killed. What describes them is in a memfd, the first to be sent.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import PurePosixPath

import msgspec

from collector.copying.stream import SourceStream
from collector.host.passing import receive_fds, send_fds
from collector.model.artifact import Artifact, Body, Bulk, Incoming, Method, SourceInfo, Truncated
from collector.model.decode import MalformedError, decode
from collector.model.errors import StepError

BATCH = 32
"""Descriptors per message: 129 messages for 4,096 files and the texts fit into a socket's default buffer."""

TEXT_BYTES = 4 << 20
"""Most bytes of text in a parcel, in memory until they are written; an inventory of 5,000 files has 1 MiB."""

PIECE = 1 << 20
MESSAGE = b"f"


class PackedArtifact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One line of a parcel's index: an artifact without its body, which is one descriptor.

    *text*: the body is a memfd to be read from its start; *cut* is why its stream ended early.
    """

    path: str
    media: str
    read_s: float
    source: SourceInfo | None = None
    truncated: str = ""
    text: bool = False
    cut: str = ""
    offset: int = 0
    limit_bytes: int | None = None
    ahead_bytes: int = 0
    instead: tuple[Method, ...] = ()


class ParcelSender:
    """The end that artifacts are put into; *fd* is one end of a pair of ``SOCK_SEQPACKET``, and stays the caller's."""

    def __init__(self, fd: int) -> None:
        self._sock = socket.socket(fileno=os.dup(fd))
        self._index = os.memfd_create("collector-parcel", os.MFD_CLOEXEC)
        self._index_bytes = self._text_bytes = 0
        self._batch: list[tuple[PackedArtifact, int]] = []
        self.left_out = 0
        """Artifacts that could not be put into the parcel, and *why*."""
        self.why = ""
        send_fds(self._sock, MESSAGE, [self._index], socket.MSG_DONTWAIT)

    def put(self, artifact: Artifact) -> None:
        """
        Take over *artifact* and its descriptor; what does not fit is counted.

        Raises:
            Exception: From its stream; what the stream yielded before that is kept.
        """
        body = artifact.body
        if isinstance(body, Incoming):
            raise TypeError("a stream that comes is received at once")
        packed = PackedArtifact(
            path=str(artifact.path),
            media=artifact.media,
            read_s=time.time(),
            source=artifact.source,
            truncated=artifact.truncated,
        )
        if isinstance(body, Bulk):
            facts = {name: getattr(body, name) for name in ("offset", "limit_bytes", "ahead_bytes", "instead")}
            self._add(msgspec.structs.replace(packed, **facts), body.fd)
            return
        fd = os.memfd_create("collector-text", os.MFD_CLOEXEC)
        stream = SourceStream((body,) if isinstance(body, bytes) else body)
        cut = self._fill(fd, stream)
        self._add(msgspec.structs.replace(packed, text=True, cut=cut or stream.reason or ""), fd)
        if stream.raised:
            raise stream.raised

    def close(self) -> None:
        """Send what is left."""
        self._send()
        os.close(self._index)
        self._sock.close()

    def _fill(self, fd: int, stream: SourceStream) -> str:
        """Write a stream into memory; return why that is not all of it."""
        at = 0
        for piece in stream:
            kept = piece[: TEXT_BYTES - self._text_bytes]
            at += os.pwrite(fd, kept, at)
            self._text_bytes += len(kept)
            if len(kept) < len(piece):
                return f"the texts of its step have more than {TEXT_BYTES} bytes"
        return ""

    def _add(self, packed: PackedArtifact, fd: int) -> None:
        self._batch.append((packed, fd))
        if len(self._batch) == BATCH:
            self._send()

    def _send(self) -> None:
        """Send the descriptors that wait, then their lines: the order of both is the same."""
        batch, self._batch = self._batch, []
        try:
            if batch:
                send_fds(self._sock, MESSAGE, [fd for _, fd in batch], socket.MSG_DONTWAIT)
        except OSError as exc:  # the socket's buffer is full, or too many descriptors are in flight
            self.left_out += len(batch)
            self.why = exc.strerror or str(exc)
        else:
            lines = b"".join(msgspec.json.encode(packed) + b"\n" for packed, _ in batch)
            self._index_bytes += os.pwrite(self._index, lines, self._index_bytes)
        finally:
            for _, fd in batch:
                os.close(fd)


def unpacked(fd: int) -> Iterator[Artifact]:
    """
    Yield the artifacts of the parcel whose end is *fd*, which stays the caller's; each must be written before the next.

    Raises:
        StepError: If its index is damaged.
    """
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(fileno=os.dup(fd)))
        waiting: list[int] = []
        stack.callback(_close_all, waiting)
        received = _received(sock, waiting)
        index = next(received, None)
        if index is None:
            return
        lines = stack.enter_context(open(index, "rb"))
        lines.seek(0)
        for line, body in zip(lines, received, strict=False):
            try:
                packed = decode(line, PackedArtifact)
            except MalformedError as exc:
                os.close(body)
                raise StepError(f"the list of what was opened is damaged: {exc}") from exc
            yield from _artifact(packed, body)


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _received(sock: socket.socket, waiting: list[int]) -> Iterator[int]:
    """Yield the descriptors in their order; those of a message that are not taken yet are *waiting*."""
    while True:
        try:
            data, fds, _ = receive_fds(sock, len(MESSAGE), BATCH, socket.MSG_DONTWAIT)
        except BlockingIOError:  # whoever sent it hangs in the kernel, and has sent no more
            return
        if not data:
            return
        waiting += fds
        while waiting:
            yield waiting.pop(0)


def _artifact(packed: PackedArtifact, fd: int) -> Iterator[Artifact]:
    """Yield one artifact as its collector did; a file is closed by whoever writes it."""
    facts = {name: getattr(packed, name) for name in ("offset", "limit_bytes", "ahead_bytes", "instead")}
    body: Body = Bulk(fd=fd, **facts)
    with contextlib.ExitStack() as stack:
        if packed.text:
            stack.callback(os.close, fd)
            body = _text(fd, packed.cut)
        yield Artifact(
            path=PurePosixPath(packed.path),
            body=body,
            source=packed.source,
            truncated=packed.truncated,
            media=packed.media,
        )


def _text(fd: int, cut: str) -> Iterator[bytes]:
    at = 0
    while piece := os.pread(fd, PIECE, at):
        at += len(piece)
        yield piece
    if cut:
        raise Truncated(cut)
