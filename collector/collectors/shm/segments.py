"""Finding the wanted segments while the inventory is written, and opening each when its turn comes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass, field

import msgspec

from collector.collectors.shm.death import Death, doubt, is_later
from collector.collectors.shm.listing import ShmFile, walk
from collector.collectors.shm.mapped_segments import DELETED, Key, OwnSegment, open_mapped
from collector.host import syscalls
from collector.host.files import OpenFd, open_beneath
from collector.host.guarded_read import Guard
from collector.host.read_errors import ReadErrors
from collector.model.errors import StepError
from collector.model.segments import OWN, Candidate, matches, rank

ANOTHER = "a file of the same name, created after the crash"
NOT_THEIRS = "only a core names it, and its owner could not have read it"
EXCLUDED = "excluded"


@dataclass(slots=True)
class SegmentSearch:
    """
    The candidates among the files below one root.

    Args:
        root_fd: The directory, normally ``/dev/shm``; closing it is left to the caller.
        own: What the crashed process has mapped.
        guard: Runs what takes a live process's locks.
        death: When it died, if *own* comes from its core.
        globs: Further segments that are wanted, in order of importance.
        exclude: What is never taken.
        limit: Maximum number of candidates.
    """

    root_fd: int
    own: dict[Key, OwnSegment]
    guard: Guard
    _: KW_ONLY
    death: Death | None
    globs: tuple[str, ...]
    exclude: tuple[str, ...]
    limit: int
    candidates: list[Candidate] = field(default_factory=list, init=False)
    passed_over: int = field(default=0, init=False)
    """Wanted segments beyond *limit*."""
    doubtful: dict[str, str] = field(default_factory=dict, init=False)
    """Segments that are taken although they may be newer than the crash, and why that is not known."""
    unmatched: set[str] = field(init=False)
    """Those of *globs* that no segment matches."""
    _seen: set[Key] = field(default_factory=set, init=False)
    _held: dict[tuple[int, int], OwnSegment] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.unmatched = set(self.globs)

    def walk(self, unread: ReadErrors) -> Iterator[ShmFile]:
        """Yield everything below the root, and add the candidates among it."""
        for found in walk(self.root_fd, unread):
            if found.is_segment:
                self._consider(found)
            yield found

    def look_for_unnamed(self) -> None:
        """Add the crash's own segments without a name here: deleted, or of another mount namespace."""
        for key, own in self.own.items():
            if key not in self._seen:
                self._add(self._unnamed(own))

    def open(self, candidate: Candidate) -> int:
        """
        Open a segment, if it is still the same file.

        This is done only when it is about to be copied: a descriptor held from the start would keep the memory of a
        segment that its owner deletes meanwhile.

        Raises:
            StepError: If it was replaced, or a process holds a lock too long.
            OSError: From open(2).
        """
        own = self._held.get((candidate.device, candidate.inode))
        fd = self._open_held(own) if own is not None else open_beneath(self.root_fd, candidate.name)
        now = os.fstat(fd)
        if not stat.S_ISREG(now.st_mode) or (now.st_dev, now.st_ino) != (candidate.device, candidate.inode):
            os.close(fd)
            raise StepError("it was replaced before it could be read")
        return fd

    def _consider(self, found: ShmFile) -> None:
        why = rank(found.name, self.globs)
        self.unmatched -= {glob for glob in self.unmatched if matches(found.name, glob)}
        for key in ((found.name, found.status.st_dev, found.status.st_ino), (found.name, None, None)):
            own = self.own.get(key)
            if own is not None:
                self._seen.add(key)
                if own.holder is not None:
                    why = (0, OWN)
                elif own.reader is not None and not own.reader.may_read(found.status):
                    self._add(Candidate(name=found.name, rank=0, why=OWN, gone=NOT_THEIRS))
                elif own.mapped.inode is None and self._is_another(found):
                    self._add(Candidate(name=found.name, rank=0, why=OWN, gone=ANOTHER))
                else:
                    why = (0, self._by_name(found, own))
        if why is not None:
            self._add(_candidate(found, *why))

    def _is_another(self, found: ShmFile) -> bool:
        """
        Return whether a file was created after the crash: a restarted service uses the same names.

        What only a clock that was set tells apart is taken, and `doubtful` says so.
        """
        try:
            born_ns = syscalls.birth_time_ns(found.name, self.root_fd)
        except OSError:
            return False  # gone again, which opening it will report
        if born_ns is None or self.death is None:
            return False
        if reason := doubt(self.death, born_ns):
            self.doubtful[found.name] = reason
            return False
        return is_later(self.death, born_ns)

    def _by_name(self, found: ShmFile, own: OwnSegment) -> str:
        """Return why a file that only a core names is wanted, and what is not certain about it."""
        why = OWN if own.confirmed or own.mapped.inode is not None else f"same name as one {OWN}, not confirmed"
        if own.name.endswith(DELETED) and own.mapped.inode is None:
            why += f", or a removed {own.name.removesuffix(DELETED)!r} was"
        if reason := self.doubtful.get(found.name):
            why += f", or created after the crash ({reason})"
        return why

    def _unnamed(self, own: OwnSegment) -> Candidate:
        name = own.name.removesuffix(DELETED)
        if own.holder is None:
            gone = "deleted; the core has only its name" if own.mapped.inode is None else "deleted, or replaced since"
            return Candidate(name=name, rank=0, why=OWN, gone=gone)
        try:
            with OpenFd(self._open_held(own)) as fd:
                status = os.fstat(fd)
        except (OSError, StepError) as exc:
            return Candidate(name=name, rank=0, why=OWN, gone=f"deleted, and opening its mapping failed: {exc}")
        self._held[status.st_dev, status.st_ino] = own
        # One that has a name is in another mount namespace, and is named as the kernel shows it.
        return _candidate(ShmFile(own.name if status.st_nlink else name, status), 0, OWN + ", which still holds it")

    def _open_held(self, own: OwnSegment) -> int:
        if own.holder is None:
            raise StepError("the process that had it mapped is gone")
        return open_mapped(own.holder, self.guard, own.mapped)

    def _add(self, candidate: Candidate) -> None:
        if any(matches(candidate.name, glob) for glob in self.exclude):
            candidate = msgspec.structs.replace(candidate, gone=EXCLUDED)
        if len(self.candidates) < self.limit:
            self.candidates.append(candidate)
        else:
            self.passed_over += 1


def _candidate(found: ShmFile, rank_: int, why: str) -> Candidate:
    return Candidate(
        name=found.name,
        rank=rank_,
        why=why,
        size_bytes=found.status.st_size,
        data_bytes=found.data_bytes,
        mtime_ns=found.status.st_mtime_ns,
        device=found.status.st_dev,
        inode=found.status.st_ino,
    )
