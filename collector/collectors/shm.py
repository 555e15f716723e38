"""Shared-memory segments: an inventory of all, and the bytes of those that matter."""

from __future__ import annotations

import enum
import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

import msgspec

from collector.collectors.base import Context
from collector.host.deadline import Guard
from collector.host.files import DIRECTORY_FLAGS, open_beneath
from collector.host.mapped import Key, Own, open_mapped, own_segments
from collector.host.shm import ROOT, Entry, entry, length_of, walk
from collector.host.unread import Unreads
from collector.model.artifact import Artifact, Bulk, Footprint, SourceInfo
from collector.model.errors import StepError
from collector.model.segments import OWN, Candidate, Limits, Order, Planned, matches, plan, rank
from collector.model.text import escape_name, jsonl
from collector.model.units import Bytes, Seconds


class From(enum.StrEnum):
    """Whose segments are taken besides those that ``segments`` names."""

    CRASHED_PROCESS = "crashed_process"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shm:
    """
    List everything in ``/dev/shm``, and copy segments: the crash's own first, then glob by glob.

    Args:
        from_: ``crashed_process`` takes what the process had mapped: known from its core if it is
            dead, from ``/proc/PID/maps`` if it lives. ``none`` takes the globs only.
        segments: Globs of further segments, in order of importance.
        exclude: Globs of segments that are never copied.
        max_each: Of each segment at most so many bytes of data.
        max_total: In all at most so many bytes of data.
        order: Which comes first among segments of the same rank.
        max_segments: At most so many segments are considered.
        read_timeout: How long reading a live process's mappings may take.
    """

    name: ClassVar[str] = "shm"
    footprint: ClassVar[Footprint] = Footprint(peak_bytes=16 << 20, timeout_s=600.0)
    from_: From = From.CRASHED_PROCESS
    segments: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_each: Bytes | None = None
    max_total: Bytes | None = None
    order: Order = Order.SMALLEST
    max_segments: int = 4096
    read_timeout: Seconds = Seconds(1.0)

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """Yield ``inventory.jsonl``, ``segments.jsonl``, the segments, and what was not read."""
        unread = Unreads()
        with ExitStack() as stack:
            guard = stack.enter_context(closing(Guard(self.read_timeout)))
            root_fd = _open_root(ctx)
            stack.callback(os.close, root_fd)
            taken = self.from_ is From.CRASHED_PROCESS
            own = own_segments(ctx.host, ctx.marker, stack, guard, unread) if taken else {}
            search = _Search(self, root_fd, own, guard)
            yield Artifact(path=PurePosixPath("inventory.jsonl"), body=jsonl(search.inventory(unread)), media="jsonl")
            search.look_for_unnamed()
            limits = Limits(max_each=self.max_each, max_total=self.max_total)
            planned = plan(search.candidates, order=self.order, limits=limits)
            yield Artifact(path=PurePosixPath("segments.jsonl"), body=jsonl(row for _, row in planned), media="jsonl")
            if search.passed_over:
                unread.add(ROOT, f"{search.passed_over} more segments matched: more than max_segments")
            for candidate, row in planned:
                if row.artifact:
                    try:
                        yield search.artifact(candidate, row)
                    except (OSError, StepError) as exc:
                        unread.add(f"{ROOT}/{candidate.name}", exc)
        yield from unread.artifacts()


def _open_root(ctx: Context) -> int:
    try:
        return os.open(ctx.host.path(ROOT), DIRECTORY_FLAGS)
    except OSError as exc:
        raise StepError(f"{ROOT}: {exc.strerror}", hint="is a tmpfs mounted there?") from exc


class InventoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of ``inventory.jsonl``; *data_bytes* is what is allocated, *mode* octal."""

    name: str
    kind: str
    size_bytes: int
    data_bytes: int
    uid: int
    gid: int
    mode: str
    mtime_s: float
    links: int


class _Search:
    """Finds the wanted segments while the inventory is written, and opens them when their turn comes."""

    def __init__(self, settings: Shm, root_fd: int, own: dict[Key, Own], guard: Guard) -> None:
        self._settings = settings
        self._root_fd = root_fd
        self._own = own
        self._guard = guard
        self._seen: set[Key] = set()
        self._holders: dict[tuple[int, int], Own] = {}
        self.candidates: list[Candidate] = []
        self.passed_over = 0

    def inventory(self, unread: Unreads) -> Iterator[InventoryRow]:
        """Yield everything below the root; note what is wanted of it."""
        for found in walk(self._root_fd, unread):
            if found.regular:
                self._consider(found)
            yield _inventory_row(found)

    def _consider(self, found: Entry) -> None:
        why = rank(found.name, self._settings.segments)
        for key in ((found.name, found.device, found.inode), (found.name, None, None)):
            own = self._own.get(key)
            if own is not None and not own.mapped.deleted:
                self._seen.add(key)
                why = (0, OWN)
        if why is not None:
            self._add(_candidate(found, why[0], why[1]))

    def look_for_unnamed(self) -> None:
        """Add the crash's own segments that have no name here: deleted ones, and those of another mount namespace."""
        for key, own in self._own.items():
            if key in self._seen:
                continue
            if own.holder is None:
                self._add(Candidate(name=own.name, rank=0, why=OWN, gone="deleted: only its name is left, in the core"))
                continue
            try:
                fd = open_mapped(own.holder, self._guard, own.mapped)
            except (OSError, StepError) as exc:
                self._add(Candidate(name=own.name, rank=0, why=OWN, gone=f"deleted, and its mapping: {exc}"))
                continue
            try:
                found = _candidate(entry(own.name, os.fstat(fd)), 0, OWN + ", which still holds it")
            finally:
                os.close(fd)
            self._holders[found.device, found.inode] = own
            self._add(msgspec.structs.replace(found, held=True))

    def _add(self, candidate: Candidate) -> None:
        if any(matches(candidate.name, glob) for glob in self._settings.exclude):
            candidate = msgspec.structs.replace(candidate, gone="excluded")
        if len(self.candidates) < self._settings.max_segments:
            self.candidates.append(candidate)
        else:
            self.passed_over += 1

    def artifact(self, candidate: Candidate, row: Planned) -> Artifact:
        """
        Open a segment for the copy engine.

        It is opened only now: a descriptor held from the start would keep the memory of a segment
        that its owner deletes meanwhile, on a machine that has none to spare.
        """
        fd = self._open(candidate)
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) != (candidate.device, candidate.inode):
            os.close(fd)
            raise StepError(f"{candidate.name!r} was replaced before it could be read")
        source = SourceInfo(
            path=f"{ROOT}/{escape_name(candidate.name)}",
            uid=status.st_uid,
            gid=status.st_gid,
            mode=stat.S_IMODE(status.st_mode),
            mtime_ns=status.st_mtime_ns,
        )
        return Artifact(
            path=PurePosixPath(row.artifact),
            body=Bulk(fd=fd, limit_bytes=length_of(fd, row.limit_bytes) if row.limit_bytes is not None else None),
            source=source,
            truncated=row.limit_bytes is not None,
            media="binary",
        )

    def _open(self, candidate: Candidate) -> int:
        if not candidate.held:
            return open_beneath(self._root_fd, candidate.name)
        own = self._holders[candidate.device, candidate.inode]
        assert own.holder is not None  # noqa: S101 - only segments with a holder are held
        return open_mapped(own.holder, self._guard, own.mapped)


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


def _inventory_row(found: Entry) -> InventoryRow:
    return InventoryRow(
        name=escape_name(found.name),
        kind=found.kind,
        size_bytes=found.size_bytes,
        data_bytes=found.data_bytes,
        uid=found.uid,
        gid=found.gid,
        mode=f"{found.mode:04o}",
        mtime_s=found.mtime_ns / 1e9,
        links=found.links,
    )
