"""What the steps of an incident left, read as far as it can be; nothing in it is trusted."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TypeVar

from collector.archive import directory, layout
from collector.archive.read import UnderWay
from collector.archive.store import ArtifactLine, journal
from collector.model.artifact import ArtifactRecord
from collector.model.decode import MalformedError, decode
from collector.model.errors import ArchiveError
from collector.model.incident import Manifest, StepRecord
from collector.model.text import printable

T = TypeVar("T")

MAX_BYTES = 32 << 20
"""Of one document: as much as the longest that a collector writes, with room to spare."""


class Documents:
    """
    The artifacts of one incident.

    `problems` has, by step, why one of them could not be read.

    Args:
        fd: Of the incident's directory.
        steps: Those that have ended.
        records: Its artifacts.
    """

    def __init__(self, fd: int, steps: tuple[StepRecord, ...], records: tuple[ArtifactRecord, ...]) -> None:
        self.fd = fd
        self.records = records
        self.problems: dict[str, str] = {}
        self._collectors = {step.id: step.collector for step in steps}

    def path(self, collector: str, name: str) -> str:
        """Return the path of this collector's artifact *name*, below its step or deeper; empty if there is none."""
        return next((record.path for record in self.of(collector) if record.path.endswith(f"/{name}")), "")

    def of(self, collector: str) -> Iterator[ArtifactRecord]:
        """Yield the artifacts of this collector, and of steps whose collector is not known yet."""
        for record in self.records:
            if self._collectors.get(step_of(record.path), collector) == collector:
                yield record

    def document(self, collector: str, name: str, kind: type[T]) -> T | None:
        """Return the JSON document *name*; ``None`` if there is none, or it cannot be read."""
        path = self.path(collector, name)
        data = self.data(path) if path else b""
        if not data:
            return None
        try:
            return decode(data, kind)
        except MalformedError as exc:
            self._failed(path, exc)
            return None

    def rows(self, collector: str, name: str, kind: type[T]) -> list[T]:
        """Return the rows of the JSON lines *name*, as far as they can be read."""
        path = self.path(collector, name)
        found: list[T] = []
        try:
            for line in self.data(path).splitlines() if path else ():
                found.append(decode(line, kind))
        except MalformedError as exc:
            self._failed(path, exc)
        return found

    def data(self, path: str) -> bytes:
        """Return the content of an artifact; empty if it cannot be read."""
        try:
            return directory.read(path, self.fd, limit=MAX_BYTES)
        except (ArchiveError, OSError) as exc:
            self._failed(path, exc)
            return b""

    def is_there(self, record: ArtifactRecord) -> bool:
        """Return whether an artifact is as long as it was archived; if not, why is in `problems`."""
        try:
            with directory.opened_file(record.path, self.fd) as fd:
                found_bytes = os.fstat(fd).st_size
        except (ArchiveError, OSError) as exc:
            self._failed(record.path, exc)
            return False
        if found_bytes != record.size_bytes:
            self._failed(record.path, ArchiveError(f"it has {found_bytes} bytes instead of {record.size_bytes}"))
            return False
        return True

    def _failed(self, path: str, why: Exception) -> None:
        reason = why.strerror if isinstance(why, OSError) else str(why)
        self.problems.setdefault(step_of(path), printable(f"{path} cannot be read: {reason}"))


def step_of(path: str) -> str:
    """Return the id of the step that an artifact's path begins with."""
    return path.partition("/")[0]


def records_of(incident: Manifest | UnderWay, fd: int) -> tuple[ArtifactRecord, ...]:
    """Return the artifacts of a sealed incident, or those that are written of one under way."""
    if isinstance(incident, Manifest):
        return tuple(incident.artifacts())
    return tuple(line for line in journal(fd, layout.ARTIFACTS, ArtifactLine) if layout.is_artifact_path(line.path))
