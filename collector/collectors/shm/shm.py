"""Shared-memory segments: an inventory of all, and the bytes of those that matter."""

from __future__ import annotations

import enum
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

from collector.collectors.base import Context, Earlier, about_nobody, names_nobody, names_of
from collector.collectors.shm.continued import MISSING, open_again, planned_before
from collector.collectors.shm.death import death_of
from collector.collectors.shm.inventory import inventory
from collector.collectors.shm.listing import ROOT, length_of
from collector.collectors.shm.mapped_segments import Key, OwnSegment, own_segments
from collector.collectors.shm.segments import EXCLUDED, NOT_THEIRS, UNOPENED, SegmentSearch
from collector.host.files import DIRECTORY_FLAGS, describe
from collector.host.guarded_read import Guard
from collector.host.read_errors import ReadErrors
from collector.host.subordinates import owners
from collector.host.tree import Tree
from collector.model.artifact import Artifact, Bulk, CoreUse, Footprint, HeldUse, NotApplicable, Truncated
from collector.model.errors import StepError
from collector.model.owners import Owners, by_owner
from collector.model.pressure import StepClass
from collector.model.segments import Candidate, Order, Planned, SegmentLimits, plan
from collector.model.text import escape_name, jsonl, unescape_name
from collector.model.units import Bytes, Seconds


class From(enum.StrEnum):
    """Whose segments are taken in addition to those that match ``segments``."""

    CRASHED_PROCESS = "crashed_process"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shm:
    """
    Copy segments of ``/dev/shm``, the crash's own first, then glob by glob; then list what is there.

    Args:
        from_: ``crashed_process`` takes what the process had mapped, as listed in its core if it is dead; if it
            lives, what it has mapped or open, unlinked and nameless shared memory included. ``none`` takes only what
            ``segments`` names.
        segments: Globs of further segments, in order of importance.
        exclude: Globs of segments that are never copied.
        max_each: Maximum bytes of data per segment.
        max_total: Maximum bytes of data in total.
        order: Which comes first among segments of the same rank.
        max_segments: Maximum number of segments considered.
        max_inventory: Maximum number of files listed; those with the most data come first.
        read_timeout: Deadline for reading a live process's mappings.
    """

    name: ClassVar[str] = "shm"
    footprint: ClassVar[Footprint] = Footprint(
        step_class=StepClass.DIRECT,
        peak_bytes=16 << 20,
        timeout_s=600.0,
        core=CoreUse.MAPPINGS,
        held=HeldUse.OPEN,
    )
    from_: From = From.CRASHED_PROCESS
    segments: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    max_each: Bytes | None = None
    max_total: Bytes | None = None
    order: Order = Order.SMALLEST
    max_segments: int = 4096
    max_inventory: int = 5000
    read_timeout: Seconds = Seconds(1.0)

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """
        Yield ``segments.jsonl``, the segments, ``inventory.jsonl``, and what was not read.

        Raises:
            Truncated: At the end, if wanted segments are not there, or what the process had mapped cannot be learnt.
            NotApplicable: At the end, if the marker is about no process and no segment is wanted by name.
        """
        if ctx.earlier is not None and (rows := planned_before(ctx.earlier)) is not None:
            yield from self._continue(ctx, ctx.earlier, rows)
            return
        unread = ReadErrors()
        with ExitStack() as stack:
            search, unknown = self._search(ctx, stack, unread)
            planned = self._plan(search, unread)
            reasons = self._gaps(ctx, search, planned, unknown)
            if reasons:  # for a run that has to continue this one: it cannot find out any more
                yield Artifact(path=PurePosixPath(MISSING), body="\n".join((*reasons, "")).encode())
            lines = jsonl((row for _, row in planned), cut=_left_out(planned, search.left_out))
            yield Artifact(path=PurePosixPath("segments.jsonl"), body=lines, media="jsonl")
            lost: list[str] = []
            ahead = sum(_cost(row) for _, row in planned)
            for candidate, row in planned:
                if row.artifact:
                    ahead -= _cost(row)
                    try:
                        yield _artifact(search.open(candidate), search.source(candidate), row, ahead)
                    except (OSError, StepError) as exc:
                        lost.append(candidate.name)
                        unread.add(search.source(candidate), exc, candidate.owner)
            yield self._inventory(search.root_fd, search.owners, unread)
        yield from unread.artifacts()
        if lost:
            reasons.append(f"no longer there: {names_of(lost)}")
        if reasons:
            raise Truncated("; ".join(reasons))
        if unknown and not self.segments:
            raise NotApplicable(about_nobody(ctx.marker))

    def _gaps(
        self, ctx: Context, search: SegmentSearch, planned: list[tuple[Candidate, Planned]], unknown: str
    ) -> list[str]:
        """Return why the plan does not have all that is wanted."""
        gone = [candidate for candidate, _ in planned if candidate.gone not in {"", EXCLUDED, NOT_THEIRS}]
        unopened = [candidate.name for candidate in gone if candidate.gone.startswith(UNOPENED)]
        lost = [candidate.name for candidate in gone if not candidate.gone.startswith(UNOPENED)]
        reasons = []
        if unknown and not names_nobody(ctx.marker):
            reasons.append(f"what the crashed process had mapped is not known: {unknown}")
        if search.gaps:
            reasons.append(f"not all names were compared with segments ({by_owner(search.gaps)} directories)")
        if search.unmatched:
            reasons.append(f"no segment matches {names_of(sorted(search.unmatched))}")
        if doubts := _doubts(search, planned):
            reasons.append(doubts)
        if lost:
            reasons.append(f"no longer there: {names_of(lost)}")
        if unopened:
            reasons.append(f"they could not be opened: {names_of(unopened)}")
        if refused := [candidate.name for candidate, _ in planned if candidate.gone == NOT_THEIRS]:
            reasons.append(f"{NOT_THEIRS}: {names_of(refused)}")
        return reasons

    def _continue(self, ctx: Context, earlier: Earlier, rows: list[Planned]) -> Iterator[Artifact]:
        """Yield what an earlier run has planned and not copied, as far as it is still the same."""
        unread, lost = ReadErrors(), []
        missing = (earlier.read(MISSING) or b"").decode().splitlines()
        with ExitStack() as stack:
            root_fd = self._root(ctx, stack)
            left = [row for row in rows if row.artifact and not earlier.has(row.artifact)]
            ahead = sum(map(_cost, left))
            for row in left:
                ahead -= _cost(row)
                source = f"{ROOT}/{unescape_name(row.name)}"
                try:
                    yield _artifact(open_again(root_fd, row), source, row, ahead)
                except (OSError, StepError) as exc:
                    lost.append(row.name)
                    unread.add(source, exc)
            yield self._inventory(root_fd, owners(ctx.host), unread)
        yield from unread.artifacts()
        if lost:
            missing.append(f"gone, or changed, while the collector was not running: {names_of(lost)}")
        if missing:
            raise Truncated("; ".join(missing))

    def _inventory(self, root_fd: int, users: Owners, unread: ReadErrors) -> Artifact:
        tree: Tree[None] = Tree(root_fd, ROOT, owners=users, unread=unread)
        rows = jsonl(inventory(tree, self.max_inventory))
        return Artifact(path=PurePosixPath("inventory.jsonl"), body=rows, media="jsonl")

    def _root(self, ctx: Context, stack: ExitStack) -> int:
        try:
            root_fd = os.open(ctx.host.path(ROOT), DIRECTORY_FLAGS)
        except OSError as exc:
            raise StepError(f"{ROOT}: {exc.strerror}", hint="is a tmpfs mounted there?") from exc
        stack.callback(os.close, root_fd)
        return root_fd

    def preview(self, ctx: Context) -> list[Planned]:
        """Return the rows that `collect` would write to ``segments.jsonl`` now."""
        unread = ReadErrors()
        with ExitStack() as stack:
            search, _ = self._search(ctx, stack, unread)
            return [row for _, row in self._plan(search, unread)]

    def _plan(self, search: SegmentSearch, unread: ReadErrors) -> list[tuple[Candidate, Planned]]:
        search.find(unread)
        limits = SegmentLimits(max_each=self.max_each, max_total=self.max_total)
        return plan(search.candidates, order=self.order, limits=limits)

    def _search(self, ctx: Context, stack: ExitStack, unread: ReadErrors) -> tuple[SegmentSearch, str]:
        guard = stack.enter_context(closing(Guard(self.read_timeout)))
        root_fd = self._root(ctx, stack)
        own: dict[Key, OwnSegment] = {}
        unknown = ""
        if self.from_ is From.CRASHED_PROCESS:
            own, unknown = own_segments(ctx.host, ctx.marker, stack, guard, unread)
        search = SegmentSearch(
            root_fd,
            own,
            guard,
            death=death_of(ctx.host, ctx.marker),
            globs=self.segments,
            exclude=self.exclude,
            order=self.order,
            limit=self.max_segments,
            owners=owners(ctx.host),
        )
        return search, unknown


def _doubts(search: SegmentSearch, planned: list[tuple[Candidate, Planned]]) -> str:
    """Return which segments are taken although they may be newer than the crash, and why that is not known."""
    names = [one.name for one, row in planned if row.artifact and one.name in search.doubtful]
    why = ", ".join(sorted({search.doubtful[name] for name in names}))
    return f"taken, but may have been created after the crash ({why}): {names_of(names)}" if names else ""


def _left_out(planned: list[tuple[Candidate, Planned]], beyond: Counter[str]) -> str | None:
    """Return how many wanted segments exceed the limits, in words; gone and excluded ones do not count."""
    counts = beyond + Counter(one.owner for one, row in planned if row.not_taken and not one.gone)
    if not counts:
        return None
    return f"{counts.total()} of the wanted segments are beyond max_total or max_segments ({by_owner(counts)})"


def _cost(row: Planned) -> int:
    """Return the bytes of data that are copied of a segment."""
    return 0 if not row.artifact else row.data_bytes if row.limit_bytes is None else row.limit_bytes


def _artifact(fd: int, source: str, row: Planned, ahead_bytes: int) -> Artifact:
    limit = length_of(fd, row.limit_bytes) if row.limit_bytes is not None else None
    return Artifact(
        path=PurePosixPath(row.artifact),
        body=Bulk(fd=fd, limit_bytes=limit, ahead_bytes=ahead_bytes),
        source=describe(fd, escape_name(source)),
        truncated="longer than max_each" if row.limit_bytes is not None else "",
        media="binary",
    )
