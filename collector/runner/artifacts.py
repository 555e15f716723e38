"""Writing what a collector yields: below its step's directory, recorded line by line."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import msgspec

from collector.archive import directory, layout
from collector.archive.store import ArtifactLine
from collector.copying import deferred_sync, engine, stream
from collector.copying.sink import failed
from collector.model.artifact import Artifact, Bulk, HardLink, Method, SourceInfo
from collector.model.copying import CopyReport, CopySettings, Feedback
from collector.model.errors import CopyError, StepError
from collector.pressure.sampler import sample_disk

ARTIFACT_LIMIT = 5_000
"""Artifacts of one step. The manifest is made in memory: 30,000 records fit into what a worker may take."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Not the disk's last word: a smaller one may fit. Anybody can make an empty segment of 8 EiB."""

CROSSES = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOENT)
"""linkat(2): another file system, a file that may not be linked, too many links, no links here, no name any more."""


@dataclass(slots=True, kw_only=True)
class Writer:
    """
    The artifacts of one step.

    Args:
        incident_fd: The incident's directory.
        step: The step's id, the name of its directory.
        copy: Settings of the copy engine.
        ask: The gate's advice between chunks.
        progress: Told the bytes written so far.
        reserve_bytes: Free space that the archive's file system must keep.
        written: Paths of artifacts that were written before; they are passed over.
        again: What lies at a path without a record is of an earlier try that died: it is replaced.
    """

    incident_fd: int
    step: str
    copy: CopySettings
    reserve_bytes: int
    ask: Callable[[], Feedback]
    progress: Callable[[int], None]
    written: frozenset[str] = frozenset()
    again: bool = False
    count: int = 0
    size_bytes: int = 0
    truncated: list[str] = field(default_factory=list)
    _directories: set[str] = field(default_factory=set)

    def write(self, artifact: Artifact, *, read_s: float | None = None) -> None:
        """
        Write one artifact and record it; a descriptor that it came with is closed, whatever happens.

        Args:
            artifact: What a collector yielded.
            read_s: When it was read, if that was before now; since the epoch.

        Raises:
            StepError: If its path is not one that a program makes, or there are too many.
            CopyError, OSError: As the destination gives it.
        """
        with ExitStack() as stack:
            if isinstance(artifact.body, (Bulk, HardLink)):
                stack.callback(os.close, artifact.body.fd)
            if (path := f"{self.step}/{artifact.path}") not in self.written:
                self._write(artifact, path, time.time() if read_s is None else read_s)

    def _write(self, artifact: Artifact, path: str, read_s: float) -> None:
        if not layout.is_artifact_path(path):
            raise StepError(f"a collector must not name an artifact {str(artifact.path)!r}")
        if self.count >= ARTIFACT_LIMIT:
            raise StepError(f"more than {ARTIFACT_LIMIT} artifacts", hint="narrow the step's globs")
        *parents, name = path.split("/")
        with ExitStack() as stack:
            fd = self.incident_fd
            for depth, parent in enumerate(parents, 1):
                fd = stack.enter_context(directory.opened(parent, fd, create=True))
                self._directories.add("/".join(parents[:depth]))
            if self.again:
                _remove_leftovers(fd, name)
            try:
                report = self._body(artifact, fd, name)
            except CopyError as exc:
                if exc.errno not in NO_ROOM:
                    raise
                self.truncated.append(f"{path}: {exc}")  # what comes after it may be smaller
                return
        self._record(artifact, path, report, read_s)

    def sync(self) -> None:
        """Make everything written so far survive a power cut: files, the names they were given, their records."""
        deferred_sync.sync_all()
        for path in sorted(self._directories, reverse=True):
            directory.sync(path, self.incident_fd)
        if self.count:
            directory.sync(layout.ARTIFACTS, self.incident_fd)

    def _body(self, artifact: Artifact, fd: int, name: str) -> CopyReport:
        match artifact.body:
            case bytes() as data:
                return stream.write((data,), directory_fd=fd, name=name, ask=self.ask, progress=self._moved)
            case Bulk() as bulk:
                return self._bulk(bulk, fd, name)
            case HardLink() as link:
                return self._link(link, fd, name)
            case pieces:
                return stream.write(pieces, directory_fd=fd, name=name, ask=self.ask, progress=self._moved)

    def _bulk(self, bulk: Bulk, fd: int, name: str) -> CopyReport:
        return engine.copy(
            bulk.fd,
            directory_fd=fd,
            name=name,
            settings=self.copy,
            offset=bulk.offset,
            limit_bytes=bulk.limit_bytes,
            room_bytes=max(0, sample_disk(self.incident_fd).free_bytes - self.reserve_bytes),
            ask=self.ask,
            progress=self._moved,
        )

    def _link(self, link: HardLink, fd: int, name: str) -> CopyReport:
        try:
            os.link(f"/proc/self/fd/{link.fd}", name, dst_dir_fd=fd, follow_symlinks=True)
        except OSError as exc:
            if exc.errno not in CROSSES:
                raise failed(exc, f"cannot link {name!r}") from exc
            report = self._bulk(Bulk(fd=link.fd), fd, name)
            return msgspec.structs.replace(
                report, method_reason=f"no hard link can be made ({exc.strerror}); {report.method_reason}"
            )
        return linked(os.fstat(link.fd))

    def _moved(self, size_bytes: int) -> None:
        self.progress(self.size_bytes + size_bytes)

    def _record(self, artifact: Artifact, path: str, report: CopyReport, read_s: float) -> None:
        line = ArtifactLine(
            step=self.step,
            path=path,
            media=artifact.media,
            read_s=round(read_s, 6),
            **_source_fields(artifact.source),
            **_report_fields(report),
        )
        if artifact.truncated and not line.truncated:
            line = msgspec.structs.replace(line, truncated=True, truncated_reason="the collector's own limit")
        directory.append(layout.ARTIFACTS, msgspec.json.encode(line), self.incident_fd, durable=False)
        self.count += 1
        self.size_bytes += report.data_bytes
        if line.truncated:
            self.truncated.append(f"{path}: {line.truncated_reason}")
        self.progress(self.size_bytes)


def in_short(reasons: Sequence[str]) -> str:
    """Return the first few reasons in one line."""
    return "; ".join(reasons[:3]) + (" …" if len(reasons) > 3 else "")


def _remove_leftovers(directory_fd: int, name: str) -> None:
    for left in (name, name + layout.PART):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(left, dir_fd=directory_fd)


def linked(status: os.stat_result) -> CopyReport:
    """Return the report of a file kept by a hard link: nothing was copied."""
    return CopyReport(
        size_bytes=status.st_size,
        data_bytes=min(status.st_size, status.st_blocks * 512),
        extents=0,
        method=Method.LINK,
        method_reason="hard link to the source",
        direct=True,
        direct_reason="",
        chunk_bytes=0,
        writers=0,
        seconds=0.0,
        cpu_seconds=0.0,
    )


def _source_fields(source: SourceInfo | None) -> dict[str, Any]:
    if source is None:
        return {}
    return {
        # A file's name may be any bytes; JSON takes only text.
        "source": source.path.encode(errors="surrogateescape").decode(errors="backslashreplace"),
        "source_uid": source.uid,
        "source_gid": source.gid,
        "source_mode": source.mode,
        "source_mtime_ns": source.mtime_ns,
        "source_xattrs": source.xattrs,
    }


def _report_fields(report: CopyReport) -> dict[str, Any]:
    return {
        "size_bytes": report.size_bytes,
        "data_bytes": report.data_bytes,
        "source_changed": report.changed,
        "digest": report.digest,
        "truncated": report.truncated,
        "truncated_reason": report.truncated_reason,
        "sparse": report.data_bytes < report.size_bytes,
        "method": report.method,
        "method_reason": report.method_reason or None,
        "direct": report.direct,
        "direct_reason": report.direct_reason or None,
        "duration_s": round(report.seconds, 6),
        "slow_downs": report.slow_downs,
        "pauses": report.pauses,
        "gate_reason": report.gate_reason,
    }
