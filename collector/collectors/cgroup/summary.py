"""``cgroup.json``: which cgroups were read, and how near each was to its limits."""

from __future__ import annotations

import os

import msgspec

from collector.collectors.cgroup.cgroup_selection import CgroupSource, Selection
from collector.collectors.cgroup.level_reader import LevelReader
from collector.collectors.cgroup.levels import REMOVED, Chain, Level, label
from collector.collectors.cgroup.limits import LimitUse, events_of, is_event_file, limits_of, refused_forks
from collector.model.text import escape_name


class LevelRow(msgspec.Struct, frozen=True, kw_only=True):
    """One cgroup: where its files are, its inode, and its events by the file that counts them, without zeros."""

    directory: str
    cgroup: str
    id: int
    populated: bool | None
    events: dict[str, dict[str, int]]


class HierarchyRow(msgspec.Struct, frozen=True, kw_only=True):
    """
    The crash's cgroup in one hierarchy, and its parents.

    *missing* is why its own files are not there, *confirmed* that they are no later cgroup's; *depth* counts its
    levels, some of which may be left out.
    """

    hierarchy: str
    cgroup: str
    missing: str
    confirmed: bool
    depth: int
    levels: tuple[LevelRow, ...]


class CgroupSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The document. *findings* are the limits that were met, the crash's own first; *nearest* is the fullest limit."""

    source: CgroupSource
    process: str
    findings: tuple[str, ...]
    nearest: LimitUse | None
    limits: tuple[LimitUse, ...]
    hierarchies: tuple[HierarchyRow, ...]


def summarize(selection: Selection, reader: LevelReader) -> CgroupSummary:
    """Return the document for what was read."""
    levels = sorted((level for chain in selection.chains for level in chain.levels), key=lambda level: level.number)
    limits: list[LimitUse] = []
    findings: list[str] = []
    for level in levels:
        cgroup, texts = escape_name(level.path), reader.texts.get(level.directory, {})
        found = tuple(limits_of(level.directory, cgroup, texts))
        limits += found
        findings += (limit.sentence() for limit in found if limit.at_limit or limit.events)
        findings += filter(None, (refused_forks(cgroup, texts),))
    return CgroupSummary(
        source=selection.source,
        process=selection.lost,
        findings=tuple(findings),
        nearest=max(limits, key=lambda limit: limit.share, default=None),
        limits=tuple(limits),
        hierarchies=tuple(_hierarchy(selection, chain, reader) for chain in selection.chains),
    )


def shown(chain: Chain) -> str:
    """Return the path of the crash's cgroup, without what the kernel says of it."""
    return escape_name(chain.member.path.removesuffix(REMOVED) if chain.missing else chain.member.path)


def is_confirmed(selection: Selection, chain: Chain) -> bool:
    return not chain.missing and (selection.confirmed or chain.same)


def _hierarchy(selection: Selection, chain: Chain, reader: LevelReader) -> HierarchyRow:
    removed = any(level in reader.removed for level in chain.levels if level.number == 0)
    return HierarchyRow(
        hierarchy=label(chain.hierarchy),
        cgroup=shown(chain),
        missing="removed while it was read" if removed else chain.missing,
        confirmed=is_confirmed(selection, chain),
        depth=chain.depth,
        levels=tuple(_level(level, reader.texts.get(level.directory, {})) for level in chain.levels),
    )


def _level(level: Level, texts: dict[str, bytes]) -> LevelRow:
    populated = None
    if (text := texts.get("cgroup.events")) is not None:
        populated = b"populated 1" in text
    counted = {name: events_of(name, text) for name, text in texts.items() if is_event_file(name)}
    return LevelRow(
        directory=level.directory,
        cgroup=escape_name(level.path),
        id=os.fstat(level.fd).st_ino,
        populated=populated,
        events={name: events for name, events in counted.items() if events},
    )
