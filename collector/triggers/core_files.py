"""Core files, whether written by the kernel, systemd-coredump, apport or abrt."""

from __future__ import annotations

import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import msgspec

from collector.host.corehead import head_in_memory
from collector.model.case import CORE_SIGNALS
from collector.model.knowledge import FACTS, Knowledge
from collector.model.marker import Marker
from collector.model.shares import FairTable, has_room
from collector.model.units import Bytes, Seconds
from collector.model.watched_files import WatchedFiles
from collector.triggers.base import TriggerContext
from collector.triggers.catch_up import CatchUp
from collector.triggers.core_reader import CoreFileReader, FileState
from collector.triggers.dir_reader import PinnedFile
from collector.triggers.directories import DirectoryWatch, check_absolute
from collector.triggers.directory import Directory, FileEvent
from collector.triggers.own_links import OwnLinks
from collector.triggers.reported_cores import ReportedCores

HOUR = Seconds(3600.0)
# Files that are still being written: concurrent dumps.
MAX_UNFINISHED = 1024
# A file that may be a reported core, compressed or moved: the original goes within milliseconds of its close.
DECIDE_S = 2.0
# A core that is shorter than its headers say: a handler may append to it in rounds. Then it counts as cut off.
APPEND_S = 10.0


CoresSize = Annotated[Bytes, msgspec.Meta(ge=1 << 20)]  # catches a missing unit


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
        remove: ``archived`` removes a core once the archive has all of it, read back and compared; ``never`` none.
        size: Space of the cores in the directories. Beyond it, those go that are archived, likewise compared: the
            oldest of the user who holds most. What is not archived stays. By default, there is no limit.
    """

    name: ClassVar[str] = "core_files"
    knows: ClassVar[Knowledge] = Knowledge(facts=frozenset(FACTS), signals=CORE_SIGNALS)
    paths: tuple[str, ...]
    match: tuple[str, ...] = ("core*", "*.core", "*.crash")
    exclude: tuple[str, ...] = ()
    recursive: int = 0
    catch_up: Seconds = HOUR
    unprivileged: Literal["attribute", "refuse"] = "attribute"
    remove: Literal["never", "archived"] = "never"
    size: CoresSize | None = None

    def __post_init__(self) -> None:
        check_absolute(self.paths)

    @property
    def files(self) -> WatchedFiles:
        """The files that it takes."""
        return WatchedFiles(paths=self.paths, match=self.match, exclude=self.exclude, depth=self.recursive)

    def open(self, ctx: TriggerContext) -> CoreFilesWatch:
        """Start watching; raise `CollectorError` if no inotify instance is left."""
        return CoreFilesWatch(self, ctx)


class CoreFilesWatch(DirectoryWatch):
    """An opened `CoreFiles`."""

    def __init__(self, trigger: CoreFiles, ctx: TriggerContext) -> None:
        super().__init__(ctx, trigger.files)
        self.trigger = trigger
        self._catch_up = CatchUp(ctx, trigger.catch_up)
        self._unfinished: FairTable[tuple[Directory, str], Unfinished] = FairTable(MAX_UNFINISHED)
        self.own_links = OwnLinks(ctx.ignore)
        self._reported = ReportedCores(
            lambda key, text: ctx.remember(f"{ctx.id}.{key}", text),
            lambda key: ctx.recall(f"{ctx.id}.{key}"),
            self.ctx.owners,
        )
        self._dropped = 0
        self._why_left: str | None = None

    @property
    def degraded(self) -> str | None:
        """Why a directory that exists is not watched, or why cores stay that are to be removed."""
        return super().degraded or self._why_left

    def cores_removed(self, removed: frozenset[tuple[int, int]], problem: str | None) -> None:
        for place in removed:
            self._reported.forget(*place)
        self._why_left = problem

    @property
    def lost(self) -> int:
        """Overflows of the kernel's queue, and unfinished files that were dropped."""
        return super().lost + self._dropped

    def read(self) -> Iterator[Marker | None]:
        oldest_s = self._catch_up.oldest_s()
        retry = False
        with self._reader() as reader:
            for event in self.events():
                yield None
                if event is None:
                    continue
                if event.name.startswith("#"):
                    retry = retry or event.closed
                    continue
                key = (event.directory, event.name)
                if (waiting := self._unfinished.get(key)) is not None:
                    reader.handles[key] = waiting.handle
                if (file := reader.pin(event)) is None:
                    continue
                with file:
                    if event.closed and not self._is_written_again(file):
                        self._unfinished.pop(key)
                        yield from self._report(reader, event, file, time.monotonic())
                    elif not (event.scanned and file.stat().st_mtime < oldest_s):
                        self._remember(key, file)
                        retry = retry or not event.closed
            if retry:
                yield from self._finished(reader)

    def poll(self) -> Iterator[Marker | None]:
        """Look for new directories, and check the unfinished files again."""
        self._catch_up.keep()
        yield from self.refresh()
        with self._reader() as reader:
            yield from self._finished(reader)

    def _reader(self) -> CoreFileReader:
        return CoreFileReader(self.ctx, self.trigger.unprivileged, self.own_links, self.directories)

    def _is_written_again(self, file: PinnedFile) -> bool:
        """Return whether the next close of a file is to be waited for: a handler may create, close and then fill it."""
        info = file.stat()
        is_empty = stat.S_ISREG(info.st_mode) and info.st_size == 0
        return bool(file.is_written) or (is_empty and self._may_wait(info.st_uid))

    def _may_wait(self, uid: int) -> bool:
        """Return whether closed files of an owner may wait for a second look: what is being written comes first."""
        return has_room(self._unfinished.held, self.ctx.owners.of(uid), self._unfinished.limit)

    def _remember(self, key: tuple[Directory, str], file: PinnedFile, state: Unfinished = UNSEEN) -> None:
        """Keep an unfinished file; if there are too many, the oldest of the owner who has most is dropped."""
        if state is not UNSEEN or key not in self._unfinished:
            dropped = self._unfinished.put(key, state, self.ctx.owners.of(file.stat().st_uid))
            self._dropped += dropped is not None

    def _finished(self, reader: CoreFileReader) -> Iterator[Marker | None]:
        """Yield the markers of unfinished files that nobody is writing any more."""
        for key, before in list(self._unfinished.items()):
            yield None
            event = FileEvent(*key, closed=False)
            reader.handles[key] = before.handle
            if (file := reader.pin(event)) is None:
                self._unfinished.pop(key)
                continue
            with file:
                reader.handles[key] = before.handle or file.handle()
                state, finished = reader.unfinished_state(file, before.state)
                since_s = before.since_s if state == before.state else time.monotonic()
                if finished:
                    self._unfinished.pop(key)
                    yield from self._report(reader, event, file, since_s)
                else:
                    self._remember(key, file, Unfinished(state, since_s, reader.handles[key]))

    def _report(self, reader: CoreFileReader, event: FileEvent, file: PinnedFile, since_s: float) -> Iterator[Marker]:
        """
        Yield the marker of a file that has not changed *since_s*, unless its core was reported already.

        If that is not certain yet, or more of the core or another name may be still to come, the file is kept for the
        next `poll`.
        """
        marker = reader.marker(event, file)
        if marker.core is None:
            return
        core, waited_s = marker.core, time.monotonic() - since_s
        known = self._reported.is_rewritten(marker) or self._reported.knows(
            core, lambda: head_in_memory(file.fd) if file.fd >= 0 else b"", settled=waited_s >= DECIDE_S
        )
        renamed = waited_s < DECIDE_S and reader.is_moved(event, file)
        short = waited_s < APPEND_S and reader.may_grow(file, marker, within_s=APPEND_S)
        # `ln x core && rm x` publishes a core, too.
        linked = waited_s < DECIDE_S and marker.refused is not None and file.stat().st_nlink > 1
        if (known is None or (not known and (renamed or short or linked))) and self._may_wait(core.uid):
            key = (event.directory, event.name)
            state = FileState(core.size_bytes, core.mtime_ns)
            self._remember(key, file, Unfinished(state, since_s, reader.handles.get(key, "")))
            return
        self._reported.add(marker, core)
        if not known:
            yield marker
