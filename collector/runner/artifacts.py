"""Writing a step's artifacts into its directory, and a line in the journal for each."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import msgspec

from collector.archive import directory, layout
from collector.archive.store import ArtifactLine
from collector.copying import deferred_sync, engine, share, stream
from collector.copying.incoming import receive
from collector.copying.rate.throttle import Stopped
from collector.copying.sink import failed
from collector.model.artifact import (
    Artifact,
    Body,
    Bulk,
    CopyResult,
    Incoming,
    Method,
    NotApplicable,
    SourceInfo,
    Truncated,
)
from collector.model.copying import CopyReport, CopySettings, Feedback
from collector.model.errors import CopyError, StepError
from collector.model.incident import StepStatus
from collector.pressure.sampler import sample_disk
from collector.runner.earlier import remove_aside, set_aside
from collector.runner.replies import Written

# How a collector says that a step ended, other than by an error.
ENDS: dict[type[Truncated | NotApplicable], StepStatus] = {
    Truncated: StepStatus.TRUNCATED,
    NotApplicable: StepStatus.NOT_APPLICABLE,
}

ARTIFACT_LIMIT = 5_000
"""Most artifacts of one step. The manifest is composed in memory: 30,000 records fit into a worker's limit."""

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A smaller artifact may still fit: anybody can create an empty segment of 8 EiB."""


@dataclass(slots=True, kw_only=True)
class Writer:
    """
    The artifacts of one step.

    Args:
        step: The step's id and the name of its directory.
        reserve_bytes: Free space that the archive's file system must keep.
        ask: Returns the gate's advice, between chunks.
        progress: Called with the bytes written so far, and how many it will be, if that is known.
        skipped: Paths of artifacts that are written already.
        replaces: Replace files that exist: an attempt that died left them.
        continues: Set files that exist aside, until they have been written again: a run that was cut off left them.
    """

    incident_fd: int
    step: str
    copy: CopySettings
    reserve_bytes: int
    ask: Callable[[], Feedback]
    progress: Callable[[int, int | None], None] = lambda _size, _total: None
    skipped: frozenset[str] = frozenset()
    replaces: bool = False
    continues: bool = False
    count: int = 0
    size_bytes: int = 0
    total_bytes: int | None = None
    truncated: list[str] = field(default_factory=list)
    _directories: set[str] = field(default_factory=set)

    def write(self, artifact: Artifact, *, read_s: float | None = None) -> None:
        """
        Write and record an artifact, read at *read_s* since the epoch (``None``: now); its descriptor is always closed.

        Raises:
            StepError: If its path is not allowed, or there are too many artifacts.
            CopyError, OSError: From the destination.
        """
        with ExitStack() as stack:
            if isinstance(artifact.body, Bulk):
                stack.callback(os.close, artifact.body.fd)
            self.total_bytes = _total(artifact.body, self.size_bytes)
            if (path := f"{self.step}/{artifact.path}") not in self.skipped:
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
                made = "/".join(parents[:depth])
                fd = stack.enter_context(directory.opened(parent, fd, create=made not in self._directories))
                self._directories.add(made)
            if self.replaces:
                _remove_leftovers(fd, name)
            if self.continues:
                set_aside(fd, name)
            try:
                report = self._body(artifact, fd, name)
            except CopyError as exc:
                if exc.errno not in NO_ROOM:
                    raise
                self.truncated.append(f"{path}: {exc}")
                return
            self._record(artifact, path, report, read_s)
            if self.continues and not report.truncated:
                remove_aside(fd, name)

    def sync(self) -> None:
        """Sync everything written so far: files, their names, their records."""
        deferred_sync.sync_all()
        for path in sorted(self._directories, reverse=True):
            directory.sync(path, self.incident_fd)
        if self.count:
            directory.sync(layout.ARTIFACTS, self.incident_fd)

    def written(self, failure: str = "") -> Written:
        """Return what was written so far, and why that is not everything: *failure*, or the first truncations."""
        status = StepStatus.FAILED if failure else StepStatus.TRUNCATED if self.truncated else StepStatus.OK
        reason = failure or "; ".join(self.truncated[:3]) + (" …" if len(self.truncated) > 3 else "")
        return Written(step=self.step, artifacts=self.count, size_bytes=self.size_bytes, status=status, reason=reason)

    def _body(self, artifact: Artifact, fd: int, name: str) -> CopyReport:
        match artifact.body:
            case Bulk() as bulk:
                return self._bulk(bulk, fd, name)
            case Incoming() as incoming:
                return receive(
                    incoming,
                    directory_fd=fd,
                    name=name,
                    rate=self.copy.rate,
                    room_bytes=self._room_bytes(),
                    ask=self.ask,
                    progress=self._moved,
                )
            case body:
                pieces = (body,) if isinstance(body, bytes) else body
        return stream.write(pieces, directory_fd=fd, name=name, rate=self.copy.rate, ask=self.ask, progress=self._moved)

    def _bulk(self, bulk: Bulk, fd: int, name: str) -> CopyReport:
        """Keep a file in the first way that works."""
        failures = []
        for method in bulk.instead:
            try:
                if method is Method.LINK:
                    return share.link(bulk.fd, fd, name)
                return share.reflink(bulk.fd, fd, name, rate=self.copy.rate, ask=self.ask)
            except FileExistsError as exc:
                raise failed(exc, f"cannot create {name!r}") from exc
            except OSError as exc:
                failures.append(f"no {method} can be made ({exc.strerror})")
            except Stopped:
                break  # the copy asks the gate itself, and says what it answered
        report = self._copy(bulk, fd, name)
        reason = "; ".join((*failures, report.method_reason))
        return msgspec.structs.replace(report, method_reason=reason)

    def _copy(self, bulk: Bulk, fd: int, name: str) -> CopyReport:
        return engine.copy(
            bulk.fd,
            directory_fd=fd,
            name=name,
            settings=self.copy,
            offset=bulk.offset,
            limit_bytes=bulk.limit_bytes,
            room_bytes=self._room_bytes(),
            deferred=True,
            ask=self.ask,
            progress=self._moved,
        )

    def _room_bytes(self) -> int:
        return max(0, sample_disk(self.incident_fd).free_bytes - self.reserve_bytes)

    def _moved(self, size_bytes: int) -> None:
        self.progress(self.size_bytes + size_bytes, self.total_bytes)

    def _record(self, artifact: Artifact, path: str, report: CopyReport, read_s: float) -> None:
        line = ArtifactLine(
            step=self.step,
            path=path,
            media=artifact.media,
            read_s=round(read_s, 6),
            source_changed=report.changed,
            sparse=report.data_bytes < report.size_bytes,
            duration_s=round(report.seconds, 6),
            **_source_fields(artifact.source),
            **{name: getattr(report, name) for name in CopyResult.__struct_fields__},
        )
        if artifact.truncated and not line.truncated:
            line = msgspec.structs.replace(line, truncated=True, truncated_reason=artifact.truncated)
        directory.append(layout.ARTIFACTS, msgspec.json.encode(line), self.incident_fd, durable=False)
        self.count += 1
        self.size_bytes += report.data_bytes
        if line.truncated:
            self.truncated.append(f"{path}: {line.truncated_reason}")
        self.progress(self.size_bytes, self.total_bytes)


def _total(body: Body, before_bytes: int) -> int | None:
    """Return how many bytes a step will have written with *body* and what follows it, if that is known."""
    if isinstance(body, Incoming):
        return None if body.compress or body.size_bytes is None else before_bytes + body.size_bytes
    if not isinstance(body, Bulk):
        return None
    status = os.fstat(body.fd)
    data = max(0, min(status.st_size - body.offset, status.st_blocks * 512))
    return before_bytes + (data if body.limit_bytes is None else min(data, body.limit_bytes)) + body.ahead_bytes


def _remove_leftovers(directory_fd: int, name: str) -> None:
    for left in (name, name + layout.PART):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(left, dir_fd=directory_fd)


def _source_fields(source: SourceInfo | None) -> dict[str, Any]:
    if source is None:
        return {}
    facts = {f"source_{name}": getattr(source, name) for name in ("uid", "gid", "mode", "mtime_ns", "xattrs")}
    # A file name may be any bytes; JSON takes only text.
    return facts | {"source": source.path.encode(errors="surrogateescape").decode(errors="backslashreplace")}
