"""Core files, whether written by the kernel, systemd-coredump, apport or abrt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from collector.model.bounded import put_newest
from collector.model.case import CORE_SIGNALS
from collector.model.knowledge import FACTS, Knowledge
from collector.model.marker import Marker
from collector.model.units import Seconds
from collector.triggers.base import TriggerContext
from collector.triggers.catch_up import CatchUp
from collector.triggers.core_reader import CoreFileReader, FileState
from collector.triggers.directories import Directory, DirectoryWatch, FileEvent, check_absolute
from collector.triggers.own_links import OwnLinks
from collector.triggers.reported_cores import ReportedCores

HOUR = Seconds(3600.0)
# Files that are still being written: concurrent dumps.
MAX_UNFINISHED = 1024
# A file that may be a reported core, compressed or moved: the original goes within milliseconds of its close.
DECIDE_S = 2.0
# A core that is shorter than its headers say: a handler may append to it in rounds. Then it counts as cut off.
APPEND_S = 10.0


class Unfinished(NamedTuple):
    """A file's last state, since when it has had that on the monotonic clock, and its handle: it may be moved away."""

    state: FileState | None = None
    since_s: float = 0.0
    handle: str = ""


UNSEEN = Unfinished()


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreFiles:
    """
    Watch directories for core files.

    Args:
        paths: Directories, or globs of directories; they may appear later.
        match: Globs of file names.
        exclude: Globs of file names to ignore even if they match.
        recursive: Number of directory levels below that are watched as well; abrt needs 1.
        catch_up: At the start, collect files that are new and not older than this.
        unprivileged: ``attribute`` a file owned by an ordinary user to that user, whatever its name
            says, or ``refuse`` it.
    """

    name: ClassVar[str] = "core_files"
    knows: ClassVar[Knowledge] = Knowledge(facts=frozenset(FACTS), signals=CORE_SIGNALS)
    paths: tuple[str, ...]
    match: tuple[str, ...] = ("core*", "*.core", "*.crash")
    exclude: tuple[str, ...] = ()
    recursive: int = 0
    catch_up: Seconds = HOUR
    unprivileged: Literal["attribute", "refuse"] = "attribute"

    def __post_init__(self) -> None:
        check_absolute(self.paths)

    def open(self, ctx: TriggerContext) -> CoreFilesWatch:
        """Start watching; raise `CollectorError` if no inotify instance is left."""
        return CoreFilesWatch(self, ctx)


class CoreFilesWatch(DirectoryWatch):
    """An opened `CoreFiles`."""

    def __init__(self, trigger: CoreFiles, ctx: TriggerContext) -> None:
        super().__init__(
            ctx, paths=trigger.paths, match=trigger.match, exclude=trigger.exclude, depth=trigger.recursive
        )
        self.trigger = trigger
        self._catch_up = CatchUp(ctx, trigger.catch_up)
        self._unfinished: dict[tuple[Directory, str], Unfinished] = {}
        self.own_links = OwnLinks(ctx.ignore)
        self._reported = ReportedCores(
            lambda key, text: ctx.remember(f"{ctx.id}.{key}", text), lambda key: ctx.recall(f"{ctx.id}.{key}")
        )
        self._dropped = 0

    @property
    def lost(self) -> int:
        """Overflows of the kernel's queue, and unfinished files that were dropped."""
        return super().lost + self._dropped

    def read(self) -> Iterator[Marker]:
        oldest_s = self._catch_up.oldest_s()
        retry = False
        with self._reader() as reader:
            for event in self.events():
                key = (event.directory, event.name)
                if event.closed and not event.name.startswith("#"):
                    if reader.is_written(event) or (self._has_room and reader.is_empty(event)):
                        self._remember(key)  # its next close is reported, too
                        continue
                    reader.handles[key] = self._unfinished.pop(key, UNSEEN).handle
                    yield from self._report(reader, event, time.monotonic())
                elif event.closed:
                    retry = True
                elif not event.name.startswith("#") and not (event.scanned and reader.is_older(event, oldest_s)):
                    self._remember(key)
                    retry = True
            if retry:
                yield from self._finished(reader)

    def poll(self) -> Iterator[Marker]:
        """Look for new directories, and check the unfinished files again."""
        self._catch_up.keep()
        self.refresh()
        with self._reader() as reader:
            yield from self._finished(reader)

    def _reader(self) -> CoreFileReader:
        return CoreFileReader(self.ctx, self.trigger.unprivileged, self.own_links, self.directories)

    @property
    def _has_room(self) -> bool:
        """Whether closed files may wait for a second look: a flood of them must not displace what is being written."""
        return len(self._unfinished) < MAX_UNFINISHED // 2

    def _remember(self, key: tuple[Directory, str], file: Unfinished = UNSEEN) -> None:
        """Keep an unfinished file; if there are too many, the oldest is dropped."""
        if key not in self._unfinished:
            self._dropped += put_newest(self._unfinished, key, file, MAX_UNFINISHED)

    def _finished(self, reader: CoreFileReader) -> Iterator[Marker]:
        """Yield the markers of unfinished files that nobody is writing any more."""
        for (directory, name), before in list(self._unfinished.items()):
            event = FileEvent(directory, name, closed=False)
            reader.handles[directory, name] = before.handle or reader.handle(event)
            state, finished = reader.unfinished_state(event, before.state)
            since_s = before.since_s if state == before.state else time.monotonic()
            if not finished:
                self._unfinished[directory, name] = Unfinished(state, since_s, reader.handles[directory, name])
                continue
            del self._unfinished[directory, name]
            yield from self._report(reader, event, since_s)

    def _report(self, reader: CoreFileReader, event: FileEvent, since_s: float) -> Iterator[Marker]:
        """
        Yield the marker of a file that has not changed *since_s*, unless its core was reported already.

        If that is not certain yet, or more of the core or another name may be still to come, the file is kept for the
        next `poll`.
        """
        marker = reader.marker(event)
        if marker is None or marker.core is None:
            return
        core, waited_s = marker.core, time.monotonic() - since_s
        known = self._reported.is_rewritten(marker) or self._reported.knows(
            core, lambda: reader.head(event), settled=waited_s >= DECIDE_S
        )
        renamed = waited_s < DECIDE_S and reader.is_moved(event)
        short = waited_s < APPEND_S and reader.may_grow(event, marker, within_s=APPEND_S)
        linked = waited_s < DECIDE_S and marker.refused is not None and reader.is_linked(event)
        if self._has_room and (known is None or (not known and (renamed or short or linked))):
            key = (event.directory, event.name)
            state = FileState(core.size_bytes, core.mtime_ns)
            self._remember(key, Unfinished(state, since_s, reader.handles.get(key, "")))
            return
        self._reported.add(marker, core)
        if not known:
            yield marker
