"""
The store: incidents being written.

Every method is ordinary, blocking file work and runs in a worker, never in the supervisor: an fsync
on a busy disk takes seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

import msgspec

from collector.archive import directory, layout
from collector.model.artifact import ArtifactRecord
from collector.model.errors import ArchiveError
from collector.model.incident import Header, StepEnd

ROOM = {layout.STEPS: 64 << 10, layout.ARTIFACTS: 256 << 10, layout.MANIFEST + layout.NEW: 512 << 10}
"""
Set aside for the records of an incident when it is opened, so that one that meets a full disk still tells
what it has and why the rest is missing. Measured: a default incident's are 4, 19 and 36 KiB.
"""


class ArtifactLine(ArtifactRecord, frozen=True, kw_only=True, omit_defaults=True):
    """One line of ``artifacts.jsonl``: an artifact and the step that it belongs to."""

    step: str


class Store:
    """
    The archive, open for writing.

    Args:
        path: The archive's directory; created, mode 0700, if it is not there.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.fd = directory.open_root(path, create=True)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def begin(self, header: Header) -> int:
        """
        Make the incident's directory and put its header on disk.

        Returns:
            A descriptor that holds the incident's lock: while it is open, no other process takes
            the incident for one that was left behind.
        """
        name = header.id + layout.PARTIAL
        try:
            with contextlib.suppress(FileExistsError):  # a worker died in doing this; the id is nobody else's
                os.mkdir(name, 0o700, dir_fd=self.fd)
            lock = os.open(name, directory.DIRECTORY_FLAGS, dir_fd=self.fd)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            directory.replace(layout.HEADER, msgspec.json.encode(header), lock)
            for file, size in ROOM.items():
                directory.allocate(file, size, lock)
            os.fsync(lock)
            os.fsync(self.fd)
        except OSError as exc:
            with contextlib.suppress(OSError):
                directory.remove_tree(name, self.fd)
            raise ArchiveError(
                f"cannot open incident {header.id} in {self.path}: {exc.strerror}",
                hint="check the free space and the mount options of the archive's disk",
            ) from exc
        return lock

    @contextlib.contextmanager
    def incident(self, incident: str) -> Iterator[int]:
        """Open the directory of an incident under way."""
        with directory.opened(incident + layout.PARTIAL, self.fd) as fd:
            yield fd

    def record_step(self, incident: str, end: StepEnd) -> None:
        """Append a step's end to ``steps.jsonl``."""
        with self.incident(incident) as fd:
            directory.append(layout.STEPS, msgspec.json.encode(end), fd, durable=True)

    def under_way(self) -> list[str]:
        """Return the ids of incidents that are not sealed, oldest first."""
        return [incident for name in sorted(os.listdir(self.fd)) if (incident := layout.partial_id(name))]

    def is_left_behind(self, incident: str) -> bool:
        """Return whether nobody works on an incident any more."""
        try:
            with self.incident(incident) as fd:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False  # somebody does, or it is not a directory of ours
        return True


def give_back_room(fd: int) -> None:
    """Free what the journal of the incident at *fd* did not use of its `ROOM`."""
    for name in (layout.STEPS, layout.ARTIFACTS):
        with contextlib.suppress(OSError):  # it costs some blocks, no evidence
            file = os.open(name, directory.APPEND_FLAGS, 0o600, dir_fd=fd)
            try:
                os.ftruncate(file, os.fstat(file).st_size)
            finally:
                os.close(file)
