"""Looking at files in watched directories without being led elsewhere."""

from __future__ import annotations

import os
import stat
from types import TracebackType
from typing import Self

from collector.host.files import REGULAR_FLAGS
from collector.triggers.directories import Directory, FileEvent


class Glance:
    """One look at many files; each directory is opened once, and only if it is still the watched one."""

    def __init__(self) -> None:
        self._dir_fds: dict[Directory, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        for fd in self._dir_fds.values():
            if fd >= 0:
                os.close(fd)

    def dir_fd(self, directory: Directory) -> int:
        """Return the directory's descriptor, -1 if it is no longer there."""
        if directory not in self._dir_fds:
            try:
                self._dir_fds[directory] = directory.open()
            except OSError:
                self._dir_fds[directory] = -1
        return self._dir_fds[directory]

    def stat(self, sighting: FileEvent) -> os.stat_result | None:
        """Return what lstat says; ``None`` if the file is gone."""
        dir_fd = self.dir_fd(sighting.directory)
        if dir_fd < 0:
            return None
        try:
            return os.stat(sighting.name, dir_fd=dir_fd, follow_symlinks=False)
        except OSError:
            return None

    def open(self, sighting: FileEvent) -> int:
        """Open a file that was regular a moment ago; -1 where that is not allowed, or it is regular no more."""
        try:
            fd = os.open(sighting.name, REGULAR_FLAGS, dir_fd=self.dir_fd(sighting.directory))
        except OSError:
            return -1
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        return -1

    def remove(self, sighting: FileEvent, info: os.stat_result) -> None:
        """Remove the file that *info* was read from; another one that took its name stays."""
        now = self.stat(sighting)
        if now is not None and (now.st_dev, now.st_ino) == (info.st_dev, info.st_ino):
            os.unlink(sighting.name, dir_fd=self.dir_fd(sighting.directory))
