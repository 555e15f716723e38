"""A drop directory: whoever supervises processes leaves one small file for each that died."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from collector.host.files import kind_of, pieces
from collector.host.syscalls import being_written
from collector.model.errors import UsageError
from collector.model.marker import Marker, MarkerKind
from collector.model.text import printable
from collector.triggers.base import TriggerContext
from collector.triggers.dir_reader import Glance
from collector.triggers.directories import DirectoryWatch, FileEvent, open_directories
from collector.triggers.facts import Speaker, marker_of, parse

POLL_S = 2.0
FILE_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitFiles:
    """
    Watch directories for files that say how a process ended.

    Args:
        paths: Directories, or globs of directories; they may appear later.
        match: Globs of file names; names with a leading dot never count.
        exclude: Globs of names that are still being written.
        unprivileged: ``attribute`` a file owned by an ordinary user to that user, or ``refuse`` it.
        remove: Remove a file once its marker is recorded; a refused one stays.
    """

    name: ClassVar[str] = "exit_files"
    paths: tuple[str, ...]
    match: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ("*.tmp", "*~")
    unprivileged: Literal["attribute", "refuse"] = "attribute"
    remove: bool = True

    def __post_init__(self) -> None:
        for path in self.paths:
            if not path.startswith("/"):
                raise UsageError(f"{path!r} is not an absolute path")

    def open(self, ctx: TriggerContext) -> ExitFilesWatch:
        """Start to watch; raise `CollectorError` where inotify has no instance left."""
        directories = open_directories(ctx, paths=self.paths, match=self.match, exclude=(*self.exclude, ".*"), depth=0)
        return ExitFilesWatch(self, ctx, directories)


@dataclass(slots=True)
class ExitFilesWatch:
    """An opened `ExitFiles`."""

    trigger: ExitFiles
    ctx: TriggerContext
    directories: DirectoryWatch
    poll_s: float | None = POLL_S
    _taken: list[tuple[FileEvent, os.stat_result]] = field(default_factory=list)
    _kept: str | None = None

    @property
    def lost(self) -> int:
        """Overflows of the kernel's queue; the directory is scanned again after each."""
        return self.directories.overflows

    @property
    def degraded(self) -> str | None:
        """Why a directory that exists is not watched, or why the last file could not be removed."""
        return self.directories.refused or self._kept

    def fileno(self) -> int:
        """Return a descriptor that is readable while events or an unfinished scan wait."""
        return self.directories.fileno()

    def read(self) -> Iterator[Marker]:
        """Yield the markers of one bounded piece of work."""
        with Glance() as glance:
            self._remove(glance)
            for sighting in self.directories.read():
                if sighting.name.startswith("#") or not (sighting.closed or sighting.scanned):
                    continue  # its close is on the way
                found = self._look(glance, sighting)
                if found is None or self._is_taken(found[1]):
                    continue
                marker, info = found
                yield marker
                if self.trigger.remove and marker.refused is None:
                    self._taken.append((sighting, info))

    def poll(self) -> Iterator[Marker]:
        """Look for directories that appeared, went or were replaced; no markers."""
        self.directories.refresh()
        with Glance() as glance:
            self._remove(glance)
        return iter(())

    def close(self) -> None:
        """Release all descriptors."""
        self.directories.close()

    def _is_taken(self, info: os.stat_result) -> bool:
        """Return whether a scan and an event are about the same file."""
        return any(
            (info.st_ino, info.st_dev, info.st_mtime_ns) == (taken.st_ino, taken.st_dev, taken.st_mtime_ns)
            for _, taken in self._taken
        )

    def _remove(self, glance: Glance) -> None:
        """Remove what the last call yielded: only now is it certain that the record of it is committed."""
        taken, self._taken = self._taken, []
        for sighting, info in taken:
            try:
                glance.remove(sighting, info)
                self._kept = None
            except OSError as exc:  # it stays, and is not taken twice: the ledger knows it
                self._kept = f"{printable(sighting.directory.path)}: cannot remove exit files: {exc.strerror}"

    def _look(self, glance: Glance, sighting: FileEvent) -> tuple[Marker, os.stat_result] | None:
        """Return the marker of a file that nobody writes to, and the inode that it was read from."""
        info = glance.stat(sighting)
        if info is None or stat.S_ISDIR(info.st_mode):
            return None
        data = b""
        refused = self._refusal(info)
        if refused is None:
            fd = glance.open(sighting)
            if fd < 0:
                return None  # swapped, or not ours to read
            try:
                if sighting.scanned and being_written(fd):
                    return None
                info = os.fstat(fd)
                data = b"".join(pieces(fd, limit=FILE_BYTES))
            finally:
                os.close(fd)
        path = printable(os.path.join(sighting.directory.path, sighting.name))
        speaker = Speaker(
            kind=MarkerKind.EXIT, trigger=self.ctx.id, uid=info.st_uid, what=f"exit file {path}", refused=refused,
            identity=f"{info.st_dev}:{info.st_ino}:{info.st_mtime_ns}",
        )  # fmt: skip
        return marker_of(parse(data), speaker, self.ctx.host), info

    def _refusal(self, info: os.stat_result) -> str | None:
        """Say why a file must not be read."""
        if not stat.S_ISREG(info.st_mode):
            return f"a {kind_of(info.st_mode)}, not a regular file"
        if info.st_nlink > 1:
            return f"{info.st_nlink} hard links"
        if info.st_size > FILE_BYTES:
            return f"{info.st_size} bytes are no exit file"
        if info.st_uid != 0 and self.trigger.unprivileged == "refuse":
            return f"owned by uid {info.st_uid}, and unprivileged files are refused"
        return None
