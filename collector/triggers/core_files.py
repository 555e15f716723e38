"""Core files, whether written by the kernel, systemd-coredump, apport or abrt."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from collector.host.corepattern import CorePattern, core_pattern
from collector.host.syscalls import being_written
from collector.model.bounded import put_newest
from collector.model.case import CORE_SIGNALS
from collector.model.knowledge import FACTS, Knowledge
from collector.model.marker import CoreRef, Marker, MarkerKind
from collector.model.text import printable
from collector.model.units import Seconds
from collector.triggers.base import TriggerContext
from collector.triggers.catch_up import CatchUp
from collector.triggers.core_identity import CoreHead, core_head, with_process
from collector.triggers.core_names import identify
from collector.triggers.dir_reader import DirReader, refusal
from collector.triggers.directories import Directory, DirectoryWatch, FileEvent, check_absolute

HOUR = Seconds(3600.0)
# Files that are still being written: concurrent dumps.
MAX_UNFINISHED = 1024
# Files reported lately: a creation, a close and a scan of the same file are one marker.
MAX_REPORTED = 4096


class FileState(NamedTuple):
    """An unfinished file, to see whether it still grows."""

    size_bytes: int
    mtime_ns: int


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
        self._unfinished: dict[tuple[Directory, str], FileState | None] = {}
        self._reported: dict[tuple[int, ...], None] = {}
        self._dropped = 0

    @property
    def lost(self) -> int:
        """Overflows of the kernel's queue, and unfinished files that were dropped."""
        return super().lost + self._dropped

    def read(self) -> Iterator[Marker]:
        oldest_s = self._catch_up.oldest_s()
        retry = False
        with _CoreReader(self) as reader:
            for event in self.events():
                key = (event.directory, event.name)
                if event.closed and not event.name.startswith("#"):
                    self._unfinished.pop(key, None)
                    yield from self._report(reader.marker(event))
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
        with _CoreReader(self) as reader:
            yield from self._finished(reader)

    def _remember(self, key: tuple[Directory, str]) -> None:
        """Keep an unfinished file; if there are too many, the oldest is dropped."""
        if key not in self._unfinished:
            self._dropped += put_newest(self._unfinished, key, None, MAX_UNFINISHED)

    def _finished(self, reader: _CoreReader) -> Iterator[Marker]:
        """Yield the markers of unfinished files that nobody is writing any more."""
        for (directory, name), before in list(self._unfinished.items()):
            event = FileEvent(directory, name, closed=False)
            state = reader.unfinished_state(event, before)
            if state is not None:
                self._unfinished[directory, name] = state
                continue
            del self._unfinished[directory, name]
            yield from self._report(reader.marker(event))

    def _report(self, marker: Marker | None) -> Iterator[Marker]:
        """Yield a marker unless its file was reported in this state already."""
        if marker is None or marker.core is None:
            return
        core = marker.core
        state: tuple[int, ...] = (core.device, core.inode, core.size_bytes, core.mtime_ns)
        if marker.attributes.get("writer") == "apport":
            # Apport's hooks rewrite a complete report in place, but for another crash it makes another file.
            state = (core.device, core.inode, int(marker.at_s * 1e6))
        if state not in self._reported:
            put_newest(self._reported, state, None, MAX_REPORTED)
            yield marker


class _CoreReader(DirReader):
    """Makes markers of core files."""

    def __init__(self, watch: CoreFilesWatch) -> None:
        super().__init__()
        self._trigger, self._ctx = watch.trigger, watch.ctx
        self._pattern: CorePattern | None = None

    def is_older(self, event: FileEvent, oldest_s: float) -> bool:
        """Return whether a scanned file is older than *oldest_s*, or gone."""
        info = self.stat(event)
        return info is None or info.st_mtime < oldest_s

    def unfinished_state(self, event: FileEvent, before: FileState | None) -> FileState | None:
        """Return the file's state if it is unfinished; ``None`` if it is finished, or gone."""
        info = self.stat(event)
        if info is None or not stat.S_ISREG(info.st_mode):
            return None
        fd = self.open(event)
        try:
            written = being_written(fd) if fd >= 0 else None
        finally:
            if fd >= 0:
                os.close(fd)
        now = FileState(info.st_size, info.st_mtime_ns)
        # Between its creation and the writer's open, a file has length 0 and no writer yet.
        return now if written or ((written is None or info.st_size == 0) and now != before) else None

    def marker(self, event: FileEvent) -> Marker | None:
        """Return the marker of a file; ``None`` if it is gone."""
        info = self.stat(event)
        if info is None:
            return None
        path = os.path.join(event.directory.path, event.name)
        refused = refusal(info, self._trigger.unprivileged)
        fd = self.open(event) if refused is None else -1
        try:
            if fd >= 0:
                info = os.fstat(fd)
                refused = refusal(info, self._trigger.unprivileged)  # the name may be another file's by now
            if refused is not None:
                return self._refused(path, info, refused)
            self._pattern = self._pattern or core_pattern(self._ctx.host)
            writer, said = identify(path, fd, self.dir_fd(event.directory), self._pattern)
            head = core_head(fd) if fd >= 0 else CoreHead()
        finally:
            if fd >= 0:
                os.close(fd)
        attributes = {"writer": writer}
        if info.st_uid != 0 and said.uid not in {None, info.st_uid}:
            attributes["claimed_uid"] = str(said.uid)
        marker = Marker(
            kind=MarkerKind.CORE_FILE,
            trigger=self._ctx.id,
            at_s=float(said.at_s or time.time()),
            reason=f"core file {printable(path)}",
            comm=printable(said.comm) if said.comm else None,
            exe=printable(said.exe) if said.exe else None,
            # Only root may speak for somebody else.
            uid=info.st_uid if info.st_uid != 0 or said.uid is None else said.uid,
            signal=said.signal,
            core=_core(path, info),
            attributes=attributes,
        )
        return with_process(marker, said, head, self._ctx.host)

    def _refused(self, path: str, info: os.stat_result, why: str) -> Marker:
        """Return the marker of a file that is recorded but not collected."""
        return Marker(
            kind=MarkerKind.CORE_FILE, trigger=self._ctx.id, at_s=time.time(), uid=info.st_uid, refused=why,
            core=_core(path, info), reason=f"core file {printable(path)}",
        )  # fmt: skip


def _core(path: str, info: os.stat_result) -> CoreRef:
    """Return what pins a file, from its fstat."""
    return CoreRef(
        path=printable(path), device=info.st_dev, inode=info.st_ino, size_bytes=info.st_size,
        mtime_ns=info.st_mtime_ns, uid=info.st_uid,
    )  # fmt: skip
