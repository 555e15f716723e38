"""Running a collector as a worker does: every body is consumed before the next artifact is requested."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import Any

import msgspec

from collector.collectors.base import Collector, Context
from collector.host.files import Host
from collector.host.procfs import Process
from collector.model.artifact import Artifact, Bulk, NotApplicable, Truncated
from collector.model.errors import StepError
from collector.model.marker import CoreRef, Marker, MarkerKind, ProcessRef
from collector.model.redaction import Redaction

LONGEST_PIECE = 1 << 20


@dataclass
class Taken:
    """One artifact and the contents of its body."""

    artifact: Artifact
    data: bytes
    cut: str | None = None


@dataclass
class Collected:
    """All artifacts by their paths, the error that ended the step, and what it said at its end."""

    artifacts: dict[str, Taken] = field(default_factory=dict)
    error: StepError | None = None
    missing: str = ""
    not_applicable: str = ""

    def __getitem__(self, path: str) -> bytes:
        return self.artifacts[path].data

    def __contains__(self, path: str) -> bool:
        return path in self.artifacts

    def text(self, path: str) -> str:
        """Return an artifact as text."""
        return self[path].decode()

    def rows(self, path: str) -> list[Any]:
        """Return the lines of a ``jsonl`` artifact, none if it is not there."""
        return [msgspec.json.decode(line) for line in self[path].splitlines()] if path in self else []

    def table(self, path: str) -> list[dict[str, str]]:
        """Return the lines of a ``tsv`` artifact by the names in its header."""
        header, *lines = self.text(path).splitlines()
        return [dict(zip(header.split("\t"), line.split("\t"), strict=True)) for line in lines]

    def document(self, path: str) -> Any:
        """Return a ``json`` artifact."""
        return msgspec.json.decode(self[path])

    def everything(self) -> bytes:
        """Return all bytes of all artifacts, with their paths and sources."""
        facts = (
            f"{path} {taken.artifact.source} {taken.cut}\n".encode() + taken.data
            for path, taken in self.artifacts.items()
        )
        return b"".join(facts) + str(self.error).encode()


def manual(*pids: int, start_ticks: int | None = None, core: CoreRef | None = None) -> Marker:
    """Return a marker of now, with processes, as they are now unless *start_ticks* is given, or a core."""
    processes = [ProcessRef(pid=pid, start_time_ticks=start_ticks or _start_ticks(pid)) for pid in pids]
    return Marker(
        kind=MarkerKind.MANUAL,
        trigger="test",
        at_s=time.time(),
        process=processes[0] if processes else None,
        core=core,
        also=tuple(processes[1:]),
    )


def _start_ticks(pid: int) -> int:
    """Return the start time of a process; of one that is gone, any."""
    try:
        with Process(Host(), pid) as process:
            return process.start_ticks
    except OSError:
        return 1


def core_ref(path: str) -> CoreRef:
    """Return a reference to the core file at *path* as it is now."""
    status = os.stat(path)
    return CoreRef(
        path=path,
        device=status.st_dev,
        inode=status.st_ino,
        size_bytes=status.st_size,
        mtime_ns=status.st_mtime_ns,
        uid=status.st_uid,
    )


def context(
    marker: Marker | None = None, *, root: str = "/", timeout_s: float = 30.0, redaction: Redaction | None = None
) -> Context:
    """Return a context with a deadline *timeout_s* from now."""
    return Context(
        host=Host(root),
        marker=marker or manual(),
        deadline_s=time.monotonic() + timeout_s,
        redaction=redaction or Redaction(),
        incident="20261128T001933.000000Z-9f21c4",
    )


def collect(collector: Collector, ctx: Context | None = None) -> Collected:
    """Run a collector to its end."""
    collected = Collected()
    try:
        for artifact in collector.collect(ctx or context()):
            path = str(artifact.path)
            assert path not in collected, f"{path} twice"
            collected.artifacts[path] = take(artifact)
    except StepError as exc:
        collected.error = exc
    except Truncated as exc:
        collected.missing = exc.reason
    except NotApplicable as exc:
        collected.not_applicable = exc.reason
    return collected


def take(artifact: Artifact) -> Taken:
    """Consume one artifact's body."""
    body = artifact.body
    if isinstance(body, bytes):
        return Taken(artifact, body)
    if isinstance(body, Bulk):
        return _take_file(artifact, body)
    data, cut = b"", None
    try:
        for piece in body:
            assert len(piece) <= LONGEST_PIECE
            data += piece
    except Truncated as exc:
        cut = exc.reason
    return Taken(artifact, data, cut)


def _take_file(artifact: Artifact, body: Bulk) -> Taken:
    offset, limit = body.offset, body.limit_bytes
    try:
        size = os.fstat(body.fd).st_size - offset
        return Taken(artifact, os.pread(body.fd, size if limit is None else min(size, limit), offset))
    finally:
        os.close(body.fd)
