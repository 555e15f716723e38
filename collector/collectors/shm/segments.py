"""Finding the segments that are wanted while the inventory is written, and opening them in their turn."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import msgspec

from collector.collectors.shm.listing import Entry, entry, walk
from collector.collectors.shm.mapped_segments import Key, Own, open_mapped
from collector.host import syscalls
from collector.host.files import open_beneath
from collector.host.guarded_read import Guard
from collector.host.read_errors import Unreads
from collector.model.errors import StepError
from collector.model.segments import OWN, Candidate, matches, rank

ANOTHER = "this one was made after the crash, under the same name"


class SegmentSearch:
    """
    The candidates among the files below one root.

    Args:
        root_fd: The directory, normally ``/dev/shm``; stays the caller's.
        own: What the crashed process has mapped.
        died_ns: When it died, if only its core tells what that was; since the epoch.
        guard: Runs what takes a live process's locks.
        globs: What is wanted besides, in order of importance.
        exclude: What is never taken.
        limit: At most so many candidates.
    """

    def __init__(
        self,
        root_fd: int,
        own: dict[Key, Own],
        guard: Guard,
        *,
        died_ns: int | None,
        globs: tuple[str, ...],
        exclude: tuple[str, ...],
        limit: int,
    ) -> None:
        self._root_fd = root_fd
        self._own = own
        self._guard = guard
        self._died_ns = died_ns
        self._globs = globs
        self._exclude = exclude
        self._limit = limit
        self._seen: set[Key] = set()
        self._held: dict[tuple[int, int], Own] = {}
        self.candidates: list[Candidate] = []
        self.passed_over = 0
        """Segments that were wanted, but more than *limit*."""

    def walk(self, unread: Unreads) -> Iterator[Entry]:
        """Yield everything below the root; note what is wanted of it."""
        for found in walk(self._root_fd, unread):
            if found.regular:
                self._consider(found)
            yield found

    def look_for_unnamed(self) -> None:
        """Add the crash's own segments that have no name here: deleted ones, and those of another mount namespace."""
        for key, own in self._own.items():
            if key not in self._seen:
                self._add(self._unnamed(own))

    def open(self, candidate: Candidate) -> int:
        """
        Open a segment, if it still is what it was.

        It is opened only in its turn: a descriptor held from the start would keep the memory of a
        segment that its owner deletes meanwhile, on a machine that has none to spare.

        Raises:
            StepError: If it was replaced, or a process withholds it.
            OSError: As open(2) gives it.
        """
        own = self._held.get((candidate.device, candidate.inode))
        fd = self._open_held(own) if own is not None else open_beneath(self._root_fd, candidate.name)
        now = os.fstat(fd)
        if not stat.S_ISREG(now.st_mode) or (now.st_dev, now.st_ino) != (candidate.device, candidate.inode):
            os.close(fd)
            raise StepError("it was replaced before it could be read")
        return fd

    def _consider(self, found: Entry) -> None:
        why = rank(found.name, self._globs)
        for key in ((found.name, found.device, found.inode), (found.name, None, None)):
            own = self._own.get(key)
            if own is not None and not own.mapped.deleted:
                self._seen.add(key)
                if own.holder is None and self._is_another(found):
                    self._add(Candidate(name=found.name, rank=0, why=OWN, gone=ANOTHER))
                else:
                    why = (0, OWN)
        if why is not None:
            self._add(_candidate(found, *why))

    def _is_another(self, found: Entry) -> bool:
        """Tell whether a file was made after the crash: a service that was restarted takes the same names."""
        try:
            born_ns = syscalls.birth_time_ns(found.name, self._root_fd)
        except OSError:
            return False  # gone again: opening it will tell
        return born_ns is not None and self._died_ns is not None and born_ns > self._died_ns

    def _unnamed(self, own: Own) -> Candidate:
        if own.holder is None:
            return Candidate(name=own.name, rank=0, why=OWN, gone="deleted: only its name is left, in the core")
        try:
            fd = self._open_held(own)
        except (OSError, StepError) as exc:
            return Candidate(name=own.name, rank=0, why=OWN, gone=f"deleted, and its mapping: {exc}")
        try:
            found = entry(own.name, os.fstat(fd))
        finally:
            os.close(fd)
        self._held[found.device, found.inode] = own
        return _candidate(found, 0, OWN + ", which still holds it")

    def _open_held(self, own: Own) -> int:
        if own.holder is None:
            raise StepError("the process that had it mapped is gone")
        return open_mapped(own.holder, self._guard, own.mapped)

    def _add(self, candidate: Candidate) -> None:
        if any(matches(candidate.name, glob) for glob in self._exclude):
            candidate = msgspec.structs.replace(candidate, gone="excluded")
        if len(self.candidates) < self._limit:
            self.candidates.append(candidate)
        else:
            self.passed_over += 1


def _candidate(found: Entry, rank_: int, why: str) -> Candidate:
    return Candidate(
        name=found.name,
        rank=rank_,
        why=why,
        size_bytes=found.size_bytes,
        data_bytes=found.data_bytes,
        mtime_ns=found.mtime_ns,
        device=found.device,
        inode=found.inode,
    )
