"""Opening and removing files in watched directories, whatever their owners do with the names meanwhile."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, suppress
from typing import Literal

from collector.host.files import kind_of, open_regular
from collector.model.errors import StepError
from collector.triggers.directories import Directory, FileEvent


class DirReader(ExitStack):
    """Opens each directory at most once in its ``with`` block, and only if it is still the watched one."""

    def __init__(self) -> None:
        super().__init__()
        self._dir_fds: dict[Directory, int] = {}

    def dir_fd(self, directory: Directory) -> int:
        """Return the directory's descriptor, -1 if it is no longer there."""
        if directory not in self._dir_fds:
            self._dir_fds[directory] = -1
            with suppress(OSError):
                self._dir_fds[directory] = directory.open()
                self.callback(os.close, self._dir_fds[directory])
        return self._dir_fds[directory]

    def stat(self, event: FileEvent) -> os.stat_result | None:
        """Return what lstat reports; ``None`` if the file is gone."""
        dir_fd = self.dir_fd(event.directory)
        if dir_fd < 0:
            return None
        try:
            return os.stat(event.name, dir_fd=dir_fd, follow_symlinks=False)
        except OSError:
            return None

    def open(self, event: FileEvent) -> int:
        """Open a regular file; -1 if that is not permitted, or if it is not a regular file any more."""
        try:
            return open_regular(event.name, dir_fd=self.dir_fd(event.directory))
        except (OSError, StepError):
            return -1

    def remove(self, event: FileEvent, info: os.stat_result) -> None:
        """Remove the file that *info* describes, unless another one has taken its name."""
        now = self.stat(event)
        if now is not None and os.path.samestat(now, info):
            os.unlink(event.name, dir_fd=self.dir_fd(event.directory))


def refusal(info: os.stat_result, unprivileged: Literal["attribute", "refuse"]) -> str | None:
    """Return why a file must not be collected; ``None`` if it may be."""
    if not stat.S_ISREG(info.st_mode):
        return f"a {kind_of(info.st_mode)}, not a regular file"
    if info.st_nlink > 1:
        return f"{info.st_nlink} hard links: a new file has one"
    if info.st_uid != 0 and unprivileged == "refuse":
        return f"owned by uid {info.st_uid}, and unprivileged files are refused"
    return None
