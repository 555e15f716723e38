"""
The archive, open for writing.

Every method is ordinary, blocking file work and runs in a worker, never in the supervisor: an fsync on a busy disk
takes seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from typing import TypeVar

import msgspec

from collector.archive import clock, directory, handover, layout, tree
from collector.host.syscalls import rename_noreplace
from collector.model.artifact import ArtifactRecord
from collector.model.decode import MalformedError, decode
from collector.model.errors import ArchiveError
from collector.model.incident import MANIFEST_VERSION, IncidentHeader, StepEnd

T = TypeVar("T", bound=msgspec.Struct)
H = TypeVar("H", bound=IncidentHeader)

HEADER_LIMIT = 1 << 20
JOURNAL_LIMIT = 64 << 20
RESERVED = {layout.STEPS: 64 << 10, layout.ARTIFACTS: 256 << 10, layout.MANIFEST + layout.NEW: 512 << 10}
"""
Bytes reserved for an incident's records when it is opened, so that even on a full disk it can say what it has and why
the rest is missing. Measured: a default incident needs 4, 19 and 36 KiB.
"""


class ArtifactLine(ArtifactRecord, frozen=True, kw_only=True, omit_defaults=True):
    """One line of ``artifacts.jsonl``: an artifact and its step, which is also the first component of its path."""

    step: str


class Store(directory.ArchiveDirectory):
    """The archive, open for writing; its directory is made, mode 0700, if it does not exist."""

    def __init__(self, path: str) -> None:
        super().__init__(path, create=True)

    def begin(self, header: IncidentHeader, *, hands_over: bool = False) -> int:
        """
        Make the incident's directory, put its header on disk, with the incident's number, and return a descriptor that
        holds its lock.

        While it is open, no other process takes the incident for one that was left behind. With *hands_over*, it is
        also recorded that it is to be handed over, whoever seals it.
        """
        name, opening = header.id + layout.PARTIAL, header.id + layout.OPENING
        try:
            with contextlib.suppress(FileNotFoundError):  # of a worker that died in this very job
                tree.remove_tree(opening, self.fd)
            os.mkdir(opening, 0o700, dir_fd=self.fd)
            lock = os.open(opening, directory.DIRECTORY_FLAGS, dir_fd=self.fd)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            header = msgspec.structs.replace(header, number=clock.advance(self.fd, new=1).last_number)
            directory.replace(layout.HEADER, msgspec.json.encode(header), lock)
            for file, size in RESERVED.items():
                directory.allocate(file, size, lock)
            if hands_over:
                handover.owe(header.id, self.fd)
            os.fsync(lock)
            # Under this name it has its lock and its header from the start.
            rename_noreplace(opening, name, dir_fd=self.fd)
            os.fsync(self.fd)
        except OSError as exc:
            with contextlib.suppress(OSError):
                tree.remove_tree(opening, self.fd)
            handover.forget(header.id, self.fd)
            raise ArchiveError(
                f"cannot open incident {header.id} in {self.path}: {exc.strerror}",
                hint="check the free space and the mount options of the archive's disk",
            ) from exc
        return lock

    def incident(self, incident: str) -> contextlib.AbstractContextManager[int]:
        """Open the directory of an incident under way."""
        return directory.opened(incident + layout.PARTIAL, self.fd)

    def record_steps(self, incident: str, ends: Sequence[StepEnd]) -> None:
        if ends:
            with self.incident(incident) as fd:
                directory.append(layout.STEPS, b"\n".join(map(msgspec.json.encode, ends)), fd, durable=True)

    def recorded(self, incident: str) -> frozenset[str]:
        """Return the paths of the artifacts that are recorded already."""
        with self.incident(incident) as fd:
            return frozenset(line.path for line in journal(fd, layout.ARTIFACTS, ArtifactRecord))

    def claimed(self, name: str) -> contextlib.AbstractContextManager[bool]:
        """Lock a directory of the archive, as `directory.claimed` does."""
        return directory.claimed(name, self.fd)

    def last_number(self) -> int:
        """Return the highest number of any incident, sealed or not."""
        names = [name for name in os.listdir(self.fd) if layout.is_id(name.removesuffix(layout.PARTIAL))]
        return max((clock.number_of(name, self.fd) for name in names), default=0)

    def clear_unopened(self) -> dict[str, str]:
        """
        Remove incidents whose run was killed before they had a header: nothing had been written to them.

        Return the names of those that cannot be removed, and why.
        """
        bad: dict[str, str] = {}
        for name in sorted(os.listdir(self.fd)):
            if layout.id_before(name, layout.OPENING):
                try:
                    self._remove_unopened(name)
                except OSError as exc:
                    bad[name] = f"{name} cannot be removed: {exc.strerror}"
        return bad

    def _remove_unopened(self, name: str) -> None:
        try:
            with self.claimed(name) as ours:
                if ours:
                    tree.remove_tree(name, self.fd)
        except NotADirectoryError:  # the collector has not made it
            os.unlink(name, dir_fd=self.fd)


def header_of(fd: int, incident: str) -> IncidentHeader:
    """
    Read the header in an incident's directory.

    Raises:
        ArchiveError: If there is none, or `checked` refuses it.
    """
    try:
        header = decode(directory.read(layout.HEADER, fd, limit=HEADER_LIMIT), IncidentHeader)
    except (MalformedError, FileNotFoundError) as exc:
        raise ArchiveError(f"incident {incident} has no readable {layout.HEADER}: {exc}") from exc
    return checked(header, "header", incident)


def checked(found: H, what: str, incident: str) -> H:
    """
    Return the header or manifest of an incident, under the id by which its directory is found.

    Raises:
        ArchiveError: If it is not of this version, or has no marker.
    """
    if found.version != MANIFEST_VERSION:
        raise ArchiveError(
            f"the {what} has version {found.version}, this program reads {MANIFEST_VERSION}",
            hint="read it with the release that wrote it",
        )
    if not found.markers:
        raise ArchiveError(f"the {what} names no marker")
    return msgspec.structs.replace(found, id=incident)


def journal(fd: int, name: str, kind: type[T]) -> Iterator[T]:
    """
    Yield the records of a journal of the incident at *fd*, as far as they can be read.

    A kill cuts the last line short; any other that is malformed costs itself, too, and what is no journal all of them:
    what the files then hold is still there.
    """
    try:
        text = directory.read(name, fd, limit=JOURNAL_LIMIT)
    except (ArchiveError, OSError):
        return
    view, start = memoryview(text), 0
    while start < len(text):
        end = text.find(b"\n", start)
        end = len(text) if end < 0 else end
        with contextlib.suppress(MalformedError):
            yield decode(view[start:end], kind)
        start = end + 1


def free_reserve(fd: int) -> None:
    """Free what the journal of the incident at *fd* did not use of `RESERVED`."""
    for name in (layout.STEPS, layout.ARTIFACTS):
        # A failure costs some blocks, no evidence.
        with contextlib.suppress(ArchiveError, OSError), directory.opened_file(name, fd) as file:
            os.truncate(f"/proc/self/fd/{file}", os.fstat(file).st_size)
