"""The cgroup of a crash and its parents: what they used, what they were allowed, and which limit was met."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import ClassVar

from collector.collectors.base import Context, about_nobody, names_nobody
from collector.collectors.cgroup.cgroup_files import huge_page_sizes
from collector.collectors.cgroup.cgroup_selection import Selection, select
from collector.collectors.cgroup.level_reader import LevelReader
from collector.collectors.cgroup.levels import directory_of
from collector.collectors.cgroup.missing_cgroups import MissingCgroups
from collector.collectors.cgroup.summary import summarize
from collector.host.cgroup_membership import Hierarchy, Membership, hierarchies
from collector.host.files import Host
from collector.host.read_errors import ReadErrors
from collector.model.artifact import Artifact, Footprint, HeldUse, NotApplicable
from collector.model.errors import StepError
from collector.model.marker import Marker
from collector.model.pressure import StepClass
from collector.model.text import json

MAX_OTHERS = 7
"""Of the processes given by hand, those beside the first one whose cgroups are read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroup:
    """
    Copy the files of the crashed process's cgroup and of those above it, for cgroup v1, v2, or both.

    Args:
        max_levels: Maximum levels per hierarchy; the deepest, and up to four next to the root.
    """

    name: ClassVar[str] = "cgroup"
    footprint: ClassVar[Footprint] = Footprint(
        step_class=StepClass.LIGHT, peak_bytes=8 << 20, timeout_s=5.0, held=HeldUse.READ
    )
    max_levels: int = 16

    def __post_init__(self) -> None:
        if not 1 <= self.max_levels <= 64:
            raise ValueError("must be from 1 to 64")

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """
        Yield the crash's own cgroup in each hierarchy, then the parents; then what follows from their limits.

        Raises:
            StepError: If no cgroups are mounted, or they cannot be read.
            Truncated: At the end, if it cannot be known whether the cgroup is the crash's, or something was left out.
            NotApplicable: At the end, if nothing tells the cgroup, or it is gone; its parents are kept.
        """
        if names_nobody(ctx.marker):
            raise NotApplicable(about_nobody(ctx.marker))
        mounted = _mounted(ctx.host)
        reader = LevelReader(huge_sizes=huge_page_sizes(ctx.host), unread=ReadErrors())
        missing = MissingCgroups()
        read: set[tuple[Membership, ...]] = set()
        for place, one in enumerate(_each_process(ctx)):
            with ExitStack() as stack:
                selection = _selected(one, mounted, limit=self.max_levels, place=place, stack=stack)
                members = tuple(chain.member for chain in selection.chains) if selection is not None else ()
                if selection is not None and selection.chains and members not in read:
                    yield from _read(selection, reader)
                missing.add(one.marker, selection, reader)
                read.add(members)
        yield from reader.unread.artifacts()
        missing.say(ctx.marker, MAX_OTHERS)


def _mounted(host: Host) -> tuple[Hierarchy, ...]:
    try:
        mounted = hierarchies(host)
    except OSError as exc:
        raise StepError(f"the cgroups cannot be read: {exc}") from exc
    if not mounted:
        raise StepError("no cgroups are mounted", hint="remove this step")
    return mounted


def _each_process(ctx: Context) -> Iterator[Context]:
    """Yield the context for each process of the marker; what it remembers is of the first one."""
    yield ctx
    for reference in ctx.marker.also[:MAX_OTHERS]:
        about = Marker(kind=ctx.marker.kind, trigger=ctx.marker.trigger, at_s=ctx.marker.at_s, process=reference)
        yield replace(ctx, held=None, marker=about)


def _selected(
    ctx: Context, mounted: tuple[Hierarchy, ...], *, limit: int, place: int, stack: ExitStack
) -> Selection | None:
    try:
        return select(ctx, mounted, limit=limit, place=place, stack=stack)
    except OSError as exc:
        raise StepError(f"the cgroups cannot be read: {exc}") from exc


def _read(selection: Selection, reader: LevelReader) -> Iterator[Artifact]:
    """Yield one process's cgroups, its own first, and the document about them."""
    levels = [level for chain in selection.chains for level in chain.levels]
    for level in sorted(levels, key=lambda level: level.number):
        yield from reader.read(level)
    path = PurePosixPath(directory_of(selection.place), "cgroup.json")
    yield Artifact(path=path, body=json(summarize(selection, reader)), media="json")
