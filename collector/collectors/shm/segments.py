"""Finding the wanted segments, the crash's own by their names, and opening each when its turn comes."""

from __future__ import annotations

import os
import stat
from collections import Counter
from dataclasses import KW_ONLY, dataclass, field

import msgspec

from collector.collectors.shm.death import Death, doubt, is_later
from collector.collectors.shm.listing import ROOT, ShmFile, walk
from collector.collectors.shm.mapped_segments import Key, OwnSegment
from collector.collectors.shm.open_segments import open_mapped
from collector.collectors.shm.segment_names import DELETED, shown_path
from collector.host import syscalls
from collector.host.files import OpenFd, open_beneath, stat_beneath
from collector.host.guarded_read import Guard
from collector.host.read_errors import ReadErrors
from collector.host.tree import Tree, is_literal
from collector.model.errors import StepError
from collector.model.owners import Owners
from collector.model.segments import OWN, Candidate, Order, matches, rank, urgency
from collector.model.shares import FairChoice, Rank

ANOTHER = "a file of the same name, created after the crash"
NOT_THEIRS = "only a core names it, and its owner could not have read it"
EXCLUDED = "excluded"
UNOPENED = "it has no name here, and opening it failed"


@dataclass(slots=True)
class SegmentSearch:
    """
    The candidates among the files below one root.

    Args:
        root_fd: The directory, normally ``/dev/shm``; closing it is left to the caller.
        own: What the crashed process has mapped or open.
        guard: Runs what takes a live process's locks.
        death: When it died, if *own* comes from its core.
        globs: Further segments that are wanted, in order of importance.
        exclude: What is never taken.
        order: Which of an owner's come first, among those that the same glob names.
        limit: Maximum number of candidates.
        owners: Whose files are whose.
    """

    root_fd: int
    own: dict[Key, OwnSegment]
    guard: Guard
    _: KW_ONLY
    death: Death | None
    globs: tuple[str, ...]
    exclude: tuple[str, ...]
    order: Order
    limit: int
    owners: Owners
    candidates: list[Candidate] = field(default_factory=list, init=False)
    left_out: Counter[str] = field(default_factory=Counter, init=False)
    """Wanted segments beyond *limit*, by owner."""
    doubtful: dict[str, str] = field(default_factory=dict, init=False)
    """Segments that are taken although they may be newer than the crash, and why that is not known."""
    unmatched: set[str] = field(init=False)
    """Those of *globs* that no segment matches."""
    gaps: Counter[str] = field(default_factory=Counter, init=False)
    """Directories of each owner in which not every name was compared with *globs*."""
    _taken: set[str] = field(default_factory=set, init=False)
    _held: dict[tuple[int, int], OwnSegment] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.unmatched = set(self.globs)

    def find(self, unread: ReadErrors) -> None:
        """Look up the crash's own segments, then those that a glob names literally, then walk for the others."""
        self._find_own()
        for glob in filter(is_literal, self.globs):
            if (found := self._look_up(glob)) is not None and (candidate := self._match(found)) is not None:
                self._add(candidate)
                self._taken.add(candidate.name)
        if not all(is_literal(glob) and "/" in glob for glob in self.globs):
            self._walk(unread)

    def _find_own(self) -> None:
        unnamed = []
        for (name, *inode), own in self.own.items():
            found = self._look_up(name)
            if found is None or (own.mapped.inode is not None and [found.status.st_dev, found.status.st_ino] != inode):
                unnamed.append(own)
            elif name not in self._taken:
                self._add(self._own(found, own))
        for own in unnamed:
            self._add(self._unnamed(own))

    def _walk(self, unread: ReadErrors) -> None:
        """Choose among the files that match a glob, in fair shares for their owners."""
        tree: Tree[None] = Tree(self.root_fd, ROOT, owners=self.owners, unread=unread)
        choice: FairChoice[Candidate] = FairChoice(self.limit - len(self.candidates), self._rank)
        for found in walk(tree, lambda name: rank(name, self.globs) is not None):
            if found.is_segment and (candidate := self._match(found)) is not None:
                choice.add(self._unless_excluded(candidate), candidate.owner)
        self.candidates += choice.chosen()
        self.left_out += choice.left_out
        self.gaps += tree.left_out

    def _rank(self, candidate: Candidate) -> Rank:
        number, value, _ = urgency(candidate, self.order)
        return not candidate.gone, -number, -value

    def _look_up(self, name: str) -> ShmFile | None:
        """Return the segment of that name, if there is one."""
        try:
            found = ShmFile(name, stat_beneath(self.root_fd, name))
        except (OSError, StepError):
            return None
        return found if found.is_segment and found.status.st_dev == os.fstat(self.root_fd).st_dev else None

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

    def source(self, candidate: Candidate) -> str:
        """Return what to show as the path of a segment."""
        own = self._held.get((candidate.device, candidate.inode))
        return f"{ROOT}/{candidate.name}" if own is None else shown_path(own.mapped.path, candidate.name)

    def _own(self, found: ShmFile, own: OwnSegment) -> Candidate:
        """Return a segment of the crash, with the reason if it is not taken."""
        gone = ""
        if own.reader is not None and not own.reader.may_read(found.status):
            gone = NOT_THEIRS
        elif own.mapped.inode is None and self._is_another(found):
            gone = ANOTHER
        if gone:
            return Candidate(name=found.name, rank=0, why=OWN, gone=gone)
        self._taken.add(found.name)
        return self._candidate(found, 0, own.why if own.holder is not None else self._by_name(found, own))

    def _match(self, found: ShmFile) -> Candidate | None:
        """Return a segment that a glob names, unless it is taken already."""
        self.unmatched -= {glob for glob in self.unmatched if matches(found.name, glob)}
        why = rank(found.name, self.globs)
        if why is None or found.name in self._taken:
            return None
        return self._candidate(found, *why)

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
            return Candidate(name=name, rank=0, why=own.why, gone=f"{UNOPENED}: {exc}")
        self._held[status.st_dev, status.st_ino] = own
        # One that has a name is in another mount namespace, and is named as the kernel shows it.
        return self._candidate(
            ShmFile(own.name if status.st_nlink else name, status), 0, f"{own.why}, which still holds it"
        )

    def _open_held(self, own: OwnSegment) -> int:
        if own.holder is None:
            raise StepError("the process that had it mapped is gone")
        return open_mapped(own.holder, self.guard, own.mapped)

    def _add(self, candidate: Candidate) -> None:
        if len(self.candidates) < self.limit:
            self.candidates.append(self._unless_excluded(candidate))
        else:
            self.left_out[candidate.owner or OWN] += 1

    def _unless_excluded(self, candidate: Candidate) -> Candidate:
        if any(matches(candidate.name, glob) for glob in self.exclude):
            return msgspec.structs.replace(candidate, gone=EXCLUDED)
        return candidate

    def _candidate(self, found: ShmFile, rank_: int, why: str) -> Candidate:
        return Candidate(
            name=found.name,
            rank=rank_,
            why=why,
            owner=self.owners.of(found.status.st_uid),
            size_bytes=found.status.st_size,
            data_bytes=found.data_bytes,
            mtime_ns=found.status.st_mtime_ns,
            device=found.status.st_dev,
            inode=found.status.st_ino,
        )
