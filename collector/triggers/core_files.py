"""Core files, by whoever wrote them: the kernel, systemd-coredump, apport, abrt."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from collector.host.corepattern import CorePattern, core_pattern
from collector.host.files import kind_of
from collector.host.syscalls import being_written
from collector.model.errors import UsageError
from collector.model.marker import CoreRef, Marker, MarkerKind, ProcessRef
from collector.model.text import printable
from collector.model.units import Seconds
from collector.triggers.base import TriggerContext
from collector.triggers.core_names import identify
from collector.triggers.dir_reader import Glance
from collector.triggers.directories import Directory, DirectoryWatch, FileEvent, open_directories

POLL_S = 2.0
HOUR = Seconds(3600.0)
# Files seen before their last writer let go: dumps that run at the same moment.
MAX_UNFINISHED = 1024
# Files told lately: a creation, a close and a scan of the same file are one marker.
MAX_TOLD = 4096

FileState = tuple[int, int]
"""Size and mtime of an unfinished file, to see whether it still grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreFiles:
    """
    Watch directories for core files.

    Args:
        paths: Directories, or globs of directories; they may appear later.
        match: Globs of file names.
        exclude: Globs of file names that are none after all.
        recursive: Watch so many levels below as well; abrt needs 1.
        catch_up: At the start, take what is not older than this and was not seen before.
        unprivileged: ``attribute`` a file owned by an ordinary user to that user, whatever its name
            says, or ``refuse`` it.
    """

    name: ClassVar[str] = "core_files"
    paths: tuple[str, ...]
    match: tuple[str, ...] = ("core*", "*.core", "*.crash")
    exclude: tuple[str, ...] = ()
    recursive: int = 0
    catch_up: Seconds = HOUR
    unprivileged: Literal["attribute", "refuse"] = "attribute"

    def __post_init__(self) -> None:
        for path in self.paths:
            if not path.startswith("/"):
                raise UsageError(f"{path!r} is not an absolute path")

    def open(self, ctx: TriggerContext) -> CoreFilesWatch:
        """Start to watch; raise `CollectorError` where inotify has no instance left."""
        directories = open_directories(
            ctx, paths=self.paths, match=self.match, exclude=self.exclude, depth=self.recursive
        )
        return CoreFilesWatch(self, ctx, directories)


@dataclass(slots=True)
class CoreFilesWatch:
    """An opened `CoreFiles`."""

    trigger: CoreFiles
    ctx: TriggerContext
    directories: DirectoryWatch
    poll_s: float | None = POLL_S
    _unfinished: dict[tuple[Directory, str], FileState | None] = field(default_factory=dict)
    _told: dict[tuple[int, ...], None] = field(default_factory=dict)
    _dropped: int = 0

    @property
    def lost(self) -> int:
        """Overflows of the kernel's queue (all is scanned again, but what came and went is lost), and drops."""
        return self.directories.overflows + self._dropped

    @property
    def degraded(self) -> str | None:
        """Why a directory that exists is not watched."""
        return self.directories.refused

    def fileno(self) -> int:
        """Return a descriptor that is readable while events or an unfinished scan wait."""
        return self.directories.fileno()

    def read(self) -> Iterator[Marker]:
        """Yield the markers of one bounded piece of work."""
        oldest_s = time.time() - self.trigger.catch_up
        retry = False
        with _Cores(self) as glance:
            for sighting in self.directories.read():
                key = (sighting.directory, sighting.name)
                if sighting.closed and not sighting.name.startswith("#"):
                    self._unfinished.pop(key, None)
                    yield from self._tell(glance.marker(sighting))
                elif sighting.closed:
                    retry = True
                elif not sighting.name.startswith("#") and not (sighting.scanned and glance.older(sighting, oldest_s)):
                    self._remember(key)
                    retry = True
            if retry:
                yield from self._finished(glance)

    def poll(self) -> Iterator[Marker]:
        """Look for new directories, and again at files that somebody was still writing."""
        self.directories.refresh()
        with _Cores(self) as glance:
            yield from self._finished(glance)

    def close(self) -> None:
        """Release all descriptors."""
        self.directories.close()

    def _remember(self, key: tuple[Directory, str]) -> None:
        """Keep a file to look at again; the oldest gives way where too many are written at once."""
        self._unfinished.setdefault(key, None)
        if len(self._unfinished) > MAX_UNFINISHED:
            del self._unfinished[next(iter(self._unfinished))]
            self._dropped += 1

    def _finished(self, glance: _Cores) -> Iterator[Marker]:
        """Yield the markers of remembered files that nobody writes to any more."""
        for (directory, name), before in list(self._unfinished.items()):
            sighting = FileEvent(directory, name, closed=False)
            look = glance.look(sighting, before)
            if look is not None:
                self._unfinished[directory, name] = look
                continue
            del self._unfinished[directory, name]
            yield from self._tell(glance.marker(sighting))

    def _tell(self, marker: Marker | None) -> Iterator[Marker]:
        """Yield a marker whose file was not told yet in this state."""
        if marker is None or marker.core is None:
            return
        core = marker.core
        state = (core.device, core.inode, core.size_bytes, core.mtime_ns)
        if state not in self._told:
            self._told[state] = None
            if len(self._told) > MAX_TOLD:
                del self._told[next(iter(self._told))]
            yield marker


class _Cores(Glance):
    """One look at core files."""

    def __init__(self, watch: CoreFilesWatch) -> None:
        super().__init__()
        self._trigger, self._ctx = watch.trigger, watch.ctx
        self._pattern: CorePattern | None = None

    def older(self, sighting: FileEvent, oldest_s: float) -> bool:
        """Return whether a scanned file is too old to be taken, or gone."""
        info = self.stat(sighting)
        return info is None or info.st_mtime < oldest_s

    def look(self, sighting: FileEvent, before: FileState | None) -> FileState | None:
        """Return size and mtime if the file is not finished; ``None`` if it is, or if it is gone."""
        info = self.stat(sighting)
        if info is None or not stat.S_ISREG(info.st_mode):
            return None
        fd = self.open(sighting)
        try:
            written = being_written(fd) if fd >= 0 else None
        finally:
            if fd >= 0:
                os.close(fd)
        now = (info.st_size, info.st_mtime_ns)
        # Between creation and the writer's open, a file has length 0 and no writer yet.
        return now if written or ((written is None or info.st_size == 0) and now != before) else None

    def marker(self, sighting: FileEvent) -> Marker | None:
        """Return the marker of a file; ``None`` if it is gone."""
        info = self.stat(sighting)
        if info is None:
            return None
        path = os.path.join(sighting.directory.path, sighting.name)
        refused = self._refusal(info)
        fd = self.open(sighting) if refused is None else -1
        try:
            if fd >= 0:
                info = os.fstat(fd)
                refused = self._refusal(info)  # the name may lead to another file than a moment ago
            if refused is not None:
                return self._refused(path, info, refused)
            self._pattern = self._pattern or core_pattern(self._ctx.host)
            writer, said = identify(path, fd, self.dir_fd(sighting.directory), self._pattern)
        finally:
            if fd >= 0:
                os.close(fd)
        attributes = {"writer": writer}
        if info.st_uid != 0 and said.uid not in {None, info.st_uid}:
            attributes["claimed_uid"] = str(said.uid)
        return Marker(
            kind=MarkerKind.CORE_FILE,
            trigger=self._ctx.id,
            at_s=float(said.at_s or time.time()),
            reason=f"core file {printable(path)}",
            process=ProcessRef(pid=said.pid) if said.pid else None,
            comm=printable(said.comm) if said.comm else None,
            exe=printable(said.exe) if said.exe else None,
            # Only root may speak for somebody else.
            uid=info.st_uid if info.st_uid != 0 or said.uid is None else said.uid,
            signal=said.signal,
            core=_core(path, info),
            attributes=attributes,
        )

    def _refused(self, path: str, info: os.stat_result, why: str) -> Marker:
        """Return the marker of a file that is recorded, no more."""
        return Marker(
            kind=MarkerKind.CORE_FILE, trigger=self._ctx.id, at_s=time.time(), uid=info.st_uid, refused=why,
            core=_core(path, info), reason=f"core file {printable(path)}",
        )  # fmt: skip

    def _refusal(self, info: os.stat_result) -> str | None:
        """Say why a file must not be collected."""
        if not stat.S_ISREG(info.st_mode):
            return f"a {kind_of(info.st_mode)}, not a regular file"
        if info.st_nlink > 1:
            return f"{info.st_nlink} hard links: a new core has one"
        if info.st_uid != 0 and self._trigger.unprivileged == "refuse":
            return f"owned by uid {info.st_uid}, and unprivileged files are refused"
        return None


def _core(path: str, info: os.stat_result) -> CoreRef:
    """Pin a file by what fstat says of it."""
    return CoreRef(
        path=printable(path), device=info.st_dev, inode=info.st_ino, size_bytes=info.st_size,
        mtime_ns=info.st_mtime_ns, uid=info.st_uid,
    )  # fmt: skip
