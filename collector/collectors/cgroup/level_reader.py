"""Reads the files of a cgroup, within the bytes that all of them may take."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from collector.collectors.cgroup.cgroup_files import MEMBERS, file_names
from collector.collectors.cgroup.levels import Level
from collector.host.files import READ_FLAGS, read_all
from collector.host.read_errors import ReadErrors
from collector.model.artifact import Artifact, SourceInfo
from collector.model.text import escape_name

FILE_BYTES = 65_536
"""Of one file: `io.stat` of 400 disks, or 9,000 members."""
TOTAL_BYTES = 512 << 10
"""Of all: a sixth of the memory for light evidence. A service on v2 takes 12 KiB, a pod on v1 40."""
NOT_HERE = frozenset({errno.ENOENT, errno.EOPNOTSUPP, errno.ENODEV, errno.EINVAL})
"""This kernel lacks the file, has it switched off (PSI), or the cgroup was removed."""


@dataclass(slots=True, kw_only=True)
class LevelReader:
    """
    Reads levels, one after another.

    Args:
        huge_sizes: Of the machine's huge pages, as in the names of files.
        unread: Receives what could not be read.
    """

    huge_sizes: tuple[str, ...]
    unread: ReadErrors
    texts: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """What was read, by the level's directory and the file's name."""
    removed: list[Level] = field(default_factory=list)
    """Levels that were removed while they were read."""
    left: int = TOTAL_BYTES

    def read(self, level: Level) -> Iterator[Artifact]:
        """Yield a level's files, those that are not empty."""
        texts = self.texts.setdefault(level.directory, {})
        names = file_names(level.hierarchy.controllers, self.huge_sizes)
        for name in (*names, *(MEMBERS if level.number == 0 else ())):
            text = self._text(level, name)
            if text:
                texts[name] = text
                yield self._artifact(level, name, text)
        if not _is_there(level):
            self.removed.append(level)

    def _text(self, level: Level, name: str) -> bytes:
        """Return a file's contents with at most one byte too many; nothing if it is not there, or no room is left."""
        if self.left <= 0:
            return b""
        try:
            fd = os.open(name, READ_FLAGS, dir_fd=level.fd)
            return read_all(fd, limit=min(FILE_BYTES, self.left) + 1)
        except OSError as exc:
            if exc.errno not in NOT_HERE:
                self.unread.add(level.hierarchy.source(level.path, name), exc)
            return b""

    def _artifact(self, level: Level, name: str, text: bytes) -> Artifact:
        most = min(FILE_BYTES, self.left)
        self.left -= min(len(text), most)
        return Artifact(
            path=PurePosixPath(level.directory, name),
            body=text[:most],
            source=SourceInfo(path=escape_name(level.hierarchy.source(level.path, name))),
            truncated=f"only the first {most} bytes were read" if len(text) > most else "",
        )


def _is_there(level: Level) -> bool:
    """Return whether a cgroup still is: no name can be looked up in one that was removed."""
    try:
        os.stat(MEMBERS[0], dir_fd=level.fd)
    except OSError:
        return False
    return True
