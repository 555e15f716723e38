"""A drop directory: a supervisor of processes leaves one small file for each process that has ended."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from collector.host.files import pieces
from collector.host.syscalls import being_written
from collector.model.knowledge import FACTS, Knowledge
from collector.model.marker import Marker, MarkerKind
from collector.model.text import printable
from collector.triggers.base import TriggerContext
from collector.triggers.dir_reader import DirReader, refusal
from collector.triggers.directories import DirectoryWatch, FileEvent, check_absolute
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

    def open(self, ctx: TriggerContext) -> ExitFilesWatch:
        """Start watching; raise `CollectorError` if no inotify instance is left."""
        return ExitFilesWatch(self, ctx)


class ExitFilesWatch(DirectoryWatch):
    """An opened `ExitFiles`."""

    def __init__(self, trigger: ExitFiles, ctx: TriggerContext) -> None:
        super().__init__(ctx, paths=trigger.paths, match=trigger.match, exclude=(*trigger.exclude, ".*"), depth=0)
        self.trigger = trigger
        self._to_remove: list[tuple[FileEvent, os.stat_result]] = []
        self._removal_problem: str | None = None

    @property
    def degraded(self) -> str | None:
        """Why a directory that exists is not watched, or why the last file could not be removed."""
        return super().degraded or self._removal_problem

    def read(self) -> Iterator[Marker]:
        with DirReader() as reader:
            self._remove(reader)
            for event in self.events():
                if event.name.startswith("#") or not (event.closed or event.scanned):
                    continue  # its close is still to come
                found = self._marker(reader, event)
                if found is None or self._is_pending(found[1]):
                    continue
                marker, info = found
                yield marker
                if self.trigger.remove and marker.refused is None:
                    self._to_remove.append((event, info))

    def poll(self) -> Iterator[Marker]:
        """Look for directories that appeared, went or were replaced; yield no markers."""
        self.refresh()
        with DirReader() as reader:
            self._remove(reader)
        return iter(())

    def _is_pending(self, info: os.stat_result) -> bool:
        """Return whether the file is about to be removed: a scan and an event may both report it."""
        return any(
            (info.st_ino, info.st_dev, info.st_mtime_ns) == (other.st_ino, other.st_dev, other.st_mtime_ns)
            for _, other in self._to_remove
        )

    def _remove(self, reader: DirReader) -> None:
        """Remove the files of the last call: only now is it certain that their markers are committed."""
        pending, self._to_remove = self._to_remove, []
        for event, info in pending:
            try:
                reader.remove(event, info)
                self._removal_problem = None
            except OSError as exc:  # it stays, and is not collected twice: the ledger knows it
                path = printable(event.directory.path)
                self._removal_problem = f"{path}: cannot remove exit files: {exc.strerror}"

    def _marker(self, reader: DirReader, event: FileEvent) -> tuple[Marker, os.stat_result] | None:
        """Return the marker of a file that nobody is writing, and the inode that it was read from."""
        info = reader.stat(event)
        if info is None or stat.S_ISDIR(info.st_mode):
            return None
        data = b""
        refused = refusal(info, self.trigger.unprivileged)
        if refused is None and info.st_size > FILE_BYTES:
            refused = f"{info.st_size} bytes are too many for an exit file"
        if refused is None:
            fd = reader.open(event)
            if fd < 0:
                return None  # replaced, or unreadable for this user
            try:
                if event.scanned and being_written(fd):
                    return None
                info = os.fstat(fd)
                data = b"".join(pieces(fd, limit=FILE_BYTES))
            finally:
                os.close(fd)
        path = printable(os.path.join(event.directory.path, event.name))
        speaker = Speaker(
            kind=MarkerKind.EXIT, trigger=self.ctx.id, uid=info.st_uid, what=f"exit file {path}", refused=refused,
            identity=f"{info.st_dev}:{info.st_ino}:{info.st_mtime_ns}",
        )  # fmt: skip
        return marker_of(parse(data), speaker, self.ctx.host), info
