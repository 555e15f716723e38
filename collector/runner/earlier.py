"""What a run that was cut off has archived of a step: nothing of it is taken twice, and none of it is given up."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

from collector.archive import directory, layout
from collector.archive.store import ArtifactLine, journal
from collector.collectors.base import EARLIER_BYTES
from collector.model.artifact import Artifact, Bulk
from collector.model.errors import ArchiveError
from collector.model.incident import StepStatus
from collector.runner.replies import Written

ASIDE = ".earlier"
AGAIN = ".again"


@dataclass(slots=True)
class EarlierFiles:
    """The artifacts of *step* that are recorded in the incident at *incident_fd*, by path below the incident."""

    incident_fd: int
    step: str
    _lines: dict[str, ArtifactLine] = field(init=False)
    _sources: set[tuple[PurePosixPath, str]] = field(init=False)
    """The directory, below the step's, and the source of each that has one."""

    def __post_init__(self) -> None:
        found = journal(self.incident_fd, layout.ARTIFACTS, ArtifactLine)
        self._lines = {line.path: line for line in found if line.step == self.step}
        self._sources = {
            (PurePosixPath(line.path).relative_to(self.step).parent, line.source)
            for line in self._lines.values()
            if line.source is not None
        }

    def has(self, path: str) -> bool:
        return f"{self.step}/{path}" in self._lines

    def read(self, path: str) -> bytes | None:
        if not self.has(path):
            return None
        with contextlib.suppress(ArchiveError, OSError):
            return directory.read(f"{self.step}/{path}", self.incident_fd, limit=EARLIER_BYTES)
        return None

    def left(self, artifacts: Iterable[Artifact]) -> Iterator[Artifact]:
        """
        Yield those of *artifacts* that are not there yet; the descriptors of the others are closed.

        Where names are numbers in a list, that list may be another one by now. A copied file is known by its source,
        and one whose number another has taken gets a name of its own.
        """
        for artifact in artifacts:
            known = self._lines.get(f"{self.step}/{artifact.path}")
            source = None if artifact.source is None else artifact.source.path
            same = known is not None and (source is None or known.source in {None, source})
            if same or (isinstance(artifact.body, Bulk) and self._is_elsewhere(artifact.path, source)):
                _close(artifact)
            elif known is not None:
                yield replace(artifact, path=artifact.path.with_name(artifact.path.name + AGAIN))
            else:
                yield artifact

    def _is_elsewhere(self, path: PurePosixPath, source: str | None) -> bool:
        """Return whether the source of a list's file has been archived under another number."""
        return len(path.parts) > 1 and (path.parent, source) in self._sources

    def part(self) -> Written | None:
        """Return what of the step is there; ``None`` if nothing is."""
        if not self._lines:
            return None
        cut = [f"{path}: {line.truncated_reason}" for path, line in self._lines.items() if line.truncated]
        return Written(
            step=self.step,
            artifacts=len(self._lines),
            size_bytes=sum(line.data_bytes for line in self._lines.values()),
            status=StepStatus.TRUNCATED if cut else StepStatus.OK,
            reason="; ".join(cut[:3]) + (" …" if len(cut) > 3 else ""),
        )


def set_aside(directory_fd: int, name: str) -> None:
    """
    Rename what a run that was cut off left of *name*, so that it can be written again, and free what it only reserved.

    It is all there is of it, until it has been written again.
    """
    for left in (name, name + layout.PART):
        with contextlib.suppress(FileNotFoundError):
            os.rename(left, _aside(name), src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
            with contextlib.suppress(ArchiveError, OSError):
                directory.give_back(_aside(name), directory_fd)


def remove_aside(directory_fd: int, name: str) -> None:
    """Remove what was `set_aside`: *name* has been written again."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_aside(name), dir_fd=directory_fd)


def _aside(name: str) -> str:
    return name + ASIDE + layout.PART


def _close(artifact: Artifact) -> None:
    if isinstance(artifact.body, Bulk):
        os.close(artifact.body.fd)
