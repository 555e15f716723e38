"""
The store: incidents being written.

Every method is ordinary, blocking file work and runs in a worker, never in the supervisor: an fsync
on a busy disk takes seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec

from collector.archive import directory, layout
from collector.host.syscalls import rename_noreplace
from collector.model.artifact import ArtifactRecord
from collector.model.errors import ArchiveError
from collector.model.incident import Header, StepEnd

T = TypeVar("T", bound=msgspec.Struct)

JOURNAL_LIMIT = 64 << 20
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
        name, opening = header.id + layout.PARTIAL, header.id + layout.OPENING
        try:
            with contextlib.suppress(FileNotFoundError):  # a worker died in doing this; the id is nobody else's
                directory.remove_tree(opening, self.fd)
            os.mkdir(opening, 0o700, dir_fd=self.fd)
            lock = os.open(opening, directory.DIRECTORY_FLAGS, dir_fd=self.fd)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            directory.replace(layout.HEADER, msgspec.json.encode(header), lock)
            for file, size in ROOM.items():
                directory.allocate(file, size, lock)
            os.fsync(lock)
            # Under this name it has its lock and its header from the first instant.
            rename_noreplace(opening, name, dir_fd=self.fd)
            os.fsync(self.fd)
        except OSError as exc:
            with contextlib.suppress(OSError):
                directory.remove_tree(opening, self.fd)
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

    def record_steps(self, incident: str, ends: Sequence[StepEnd]) -> None:
        """Append the ends of steps to ``steps.jsonl``."""
        if ends:
            with self.incident(incident) as fd:
                directory.append(layout.STEPS, b"\n".join(map(msgspec.json.encode, ends)), fd, durable=True)

    def recorded(self, incident: str, step: str) -> frozenset[str]:
        """Return the paths of a step's artifacts that have their record already."""
        with self.incident(incident) as fd:
            return frozenset(line.path for line in journal(fd, layout.ARTIFACTS, ArtifactLine) if line.step == step)

    def under_way(self) -> list[str]:
        """Return the ids of incidents that are not sealed, oldest first."""
        names = sorted(os.listdir(self.fd))
        return [incident for name in names if (incident := layout.id_before(name, layout.PARTIAL))]

    @contextlib.contextmanager
    def claimed(self, name: str) -> Iterator[bool]:
        """
        Take the lock of a directory of the archive for as long as this lasts.

        Yields:
            False if somebody works on it, or it is gone.
        """
        with contextlib.ExitStack() as stack:
            try:
                fd = stack.enter_context(directory.opened(name, self.fd))
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
            else:
                yield True

    def clear_unopened(self) -> None:
        """Remove what was killed before it had a header: nothing had been collected."""
        for name in sorted(os.listdir(self.fd)):
            if layout.id_before(name, layout.OPENING):
                with self.claimed(name) as ours:
                    if ours:
                        directory.remove_tree(name, self.fd)


def journal(fd: int, name: str, kind: type[T]) -> Iterator[T]:
    """Yield the records of a journal of the incident at *fd*; a last line that a kill cut short is passed over."""
    try:
        text = directory.read(name, fd, limit=JOURNAL_LIMIT)
    except FileNotFoundError:
        return
    decoder, view, start = msgspec.json.Decoder(kind), memoryview(text), 0
    while start < len(text):
        end = text.find(b"\n", start)
        end = len(text) if end < 0 else end
        with contextlib.suppress(msgspec.DecodeError):
            yield decoder.decode(view[start:end])
        start = end + 1


def give_back_room(fd: int) -> None:
    """Free what the journal of the incident at *fd* did not use of its `ROOM`."""
    for name in (layout.STEPS, layout.ARTIFACTS):
        with contextlib.suppress(OSError):  # it costs some blocks, no evidence
            file = os.open(name, directory.APPEND_FLAGS, 0o600, dir_fd=fd)
            try:
                os.ftruncate(file, os.fstat(file).st_size)
            finally:
                os.close(file)
