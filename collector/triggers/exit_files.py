"""A drop directory: a supervisor of processes leaves one small file for each process that has ended."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from collector.host.files import pieces
from collector.host.removal import may_remove
from collector.model.knowledge import FACTS, Knowledge
from collector.model.marker import Marker, MarkerKind
from collector.model.text import printable
from collector.model.watched_files import WatchedFiles
from collector.triggers.base import TriggerContext
from collector.triggers.dir_reader import DirReader, PinnedFile, refusal
from collector.triggers.directories import DirectoryWatch, check_absolute
from collector.triggers.directory import FileEvent
from collector.triggers.facts import Speaker, marker_of, parse

FILE_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitFiles:
    """
    Watch directories for files that say how a process ended.

    Args:
        paths: Directories, or globs of directories; they may appear later.
        match: Globs of file names; names with a leading dot never match.
        exclude: Globs of file names to ignore even if they match: files that are still being written.
        unprivileged: ``attribute`` a file owned by an ordinary user to that user, or ``refuse`` it.
        remove: Remove a file once its marker is recorded; refused files stay.
    """

    name: ClassVar[str] = "exit_files"
    knows: ClassVar[Knowledge] = Knowledge(facts=frozenset(FACTS), free_text=True)
    paths: tuple[str, ...]
    match: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ("*.tmp", "*~")
    unprivileged: Literal["attribute", "refuse"] = "attribute"
    remove: bool = True

    def __post_init__(self) -> None:
        check_absolute(self.paths)

    @property
    def files(self) -> WatchedFiles:
        """The files that it takes; those that editors and copies hide never."""
        return WatchedFiles(paths=self.paths, match=self.match, exclude=(*self.exclude, ".*"))

    def open(self, ctx: TriggerContext) -> ExitFilesWatch:
        """Start watching; raise `CollectorError` if no inotify instance is left."""
        return ExitFilesWatch(self, ctx)


class FileVersion(NamedTuple):
    """A file as it was when it was read; one that was written to since tells of another exit."""

    device: int
    inode: int
    mtime_ns: int

    @classmethod
    def of(cls, info: os.stat_result) -> FileVersion:
        return cls(info.st_dev, info.st_ino, info.st_mtime_ns)


class ExitFilesWatch(DirectoryWatch):
    """An opened `ExitFiles`."""

    def __init__(self, trigger: ExitFiles, ctx: TriggerContext) -> None:
        super().__init__(ctx, trigger.files)
        self.trigger = trigger
        self._to_remove: dict[FileVersion, FileEvent] = {}
        self._left: tuple[FileVersion, FileEvent] | None = None
        """The last file that could not be removed, and in *_why_left* the reason."""
        self._why_left: str | None = None

    @property
    def degraded(self) -> str | None:
        """Why a directory that exists is not watched, or why a file could not be removed."""
        return super().degraded or self._why_left

    def read(self) -> Iterator[Marker | None]:
        with DirReader() as reader:
            yield from self._remove(reader)
            for event in self.events():
                yield None
                if event is None or event.name.startswith("#") or not (event.closed or event.scanned):
                    continue  # its close is still to come
                if (file := reader.pin(event)) is None:
                    continue
                with file:
                    version = FileVersion.of(file.stat())
                    marker = None if version in self._to_remove else self._marker(event, file)
                if marker is None:
                    continue
                yield marker
                if self.trigger.remove and marker.refused is None:
                    self._to_remove[version] = event

    def poll(self) -> Iterator[None]:
        """Look for directories that appeared, went or were replaced, and try again to remove; yield no markers."""
        yield from self.refresh()
        with DirReader() as reader:
            yield from self._remove(reader)
            if self._left is not None:
                self._try_to_remove(reader, *self._left)

    def _remove(self, reader: DirReader) -> Iterator[None]:
        """Remove the files of the last call: only now is it certain that their markers are committed."""
        pending, self._to_remove = self._to_remove, {}
        for version, event in pending.items():
            yield None
            self._try_to_remove(reader, version, event)

    def _try_to_remove(self, reader: DirReader, version: FileVersion, event: FileEvent) -> None:
        """Remove a file; one that cannot be stays, and is not collected twice: the ledger knows it."""
        why = None
        try:
            if not self._remove_one(reader, event, version):
                why = "exit files stay whose owner may not remove them, or root's on a path that others may change"
        except OSError as exc:
            why = f"cannot remove exit files: {exc.strerror}"
        if why is not None:
            self._left = version, event
            self._why_left = f"{printable(event.directory.path)}: {why}: mend it, or say `remove: false`"
        elif self._left is not None and self._left[0] == version:
            self._left = self._why_left = None

    def _remove_one(self, reader: DirReader, event: FileEvent, version: FileVersion) -> bool:
        """Remove a file, unless its name is another's by now; return whether its owner could have done that."""
        found, file = reader.find(event.directory), reader.pin(event)
        if file is None:
            return True
        with file:
            info = file.stat()
            if FileVersion.of(info) != version:
                return True
            if not may_remove(self.ctx.host, found, info):
                return False
            os.unlink(event.name, dir_fd=found.fd)
        return True

    def _marker(self, event: FileEvent, file: PinnedFile) -> Marker | None:
        """Return the marker of a file that nobody is writing."""
        info = file.stat()
        if stat.S_ISDIR(info.st_mode):
            return None
        data = b""
        refused = refusal(file.fileno(), self.trigger.unprivileged)
        if refused is None and info.st_size > FILE_BYTES:
            refused = f"{info.st_size} bytes are too many for an exit file"
        if refused is None:
            if file.fd < 0 or (event.scanned and file.is_written):
                return None
            data = b"".join(pieces(file.fd, limit=FILE_BYTES))
        path = printable(os.path.join(event.directory.path, event.name))
        speaker = Speaker(
            kind=MarkerKind.EXIT, trigger=self.ctx.id, uid=info.st_uid, what=f"exit file {path}", refused=refused,
            identity=f"{info.st_dev}:{info.st_ino}:{info.st_mtime_ns}",
        )  # fmt: skip
        return marker_of(parse(data), speaker, self.ctx.host)
