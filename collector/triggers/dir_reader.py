"""Opening and removing files in watched directories, whatever their owners do with the names meanwhile."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, suppress
from typing import Literal

from collector.host.filehandle import handle_of, open_handle
from collector.host.files import REGULAR_FLAGS, OpenFd, kind_of, open_regular
from collector.model.errors import StepError
from collector.triggers.directories import Directory, FileEvent

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class DirReader(ExitStack):
    """
    Opens each directory at most once in its ``with`` block, and only if it is still the watched one.

    *handles* lead to files that may have been moved away since their event, by directory and name.
    """

    def __init__(self) -> None:
        super().__init__()
        self._dir_fds: dict[Directory, int] = {}
        self.handles: dict[tuple[Directory, str], str] = {}

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
            fd = self._open_moved(event)
        if fd < 0:
            return None
        with OpenFd(fd):
            return os.fstat(fd)

    def open(self, event: FileEvent) -> int:
        """Open a regular file; -1 if that is not permitted, or if it is not a regular file any more."""
        try:
            return open_regular(event.name, dir_fd=self.dir_fd(event.directory))
        except (OSError, StepError):
            return self._open_moved(event)

    def is_moved(self, event: FileEvent) -> bool:
        """Return whether a file is no longer under its name, though it still exists."""
        try:
            os.stat(event.name, dir_fd=self.dir_fd(event.directory), follow_symlinks=False)
        except OSError:
            return self.stat(event) is not None
        return False

    def is_empty(self, event: FileEvent) -> bool:
        """Return whether a file is empty: a handler may create it, close it and only then append to it."""
        info = self.stat(event)
        return info is not None and info.st_size == 0 and stat.S_ISREG(info.st_mode)

    def handle(self, event: FileEvent) -> str:
        """Return what leads to a file if it is moved."""
        fd = self.open(event)
        if fd < 0:
            return ""
        with OpenFd(fd):
            return handle_of(fd)

    def _open_moved(self, event: FileEvent) -> int:
        """Open a file that is no longer under its name by its handle; -1 if there is none, or the file is gone."""
        handle = self.handles.get((event.directory, event.name))
        if not handle:
            return -1
        try:
            # A handle cannot be opened by a descriptor with O_PATH.
            with OpenFd(os.open(f"/proc/self/fd/{self.dir_fd(event.directory)}", DIRECTORY)) as mount_fd:
                return open_handle(mount_fd, handle, REGULAR_FLAGS)
        except OSError:
            return -1

    def remove(self, event: FileEvent, info: os.stat_result) -> None:
        """Remove the file that *info* describes, unless another one has taken its name."""
        now = self.stat(event)
        if now is not None and os.path.samestat(now, info):
            os.unlink(event.name, dir_fd=self.dir_fd(event.directory))


def refusal(info: os.stat_result, unprivileged: Literal["attribute", "refuse"], *, own_links: int = 0) -> str | None:
    """Return why a file must not be collected; ``None`` if it may be. *own_links* of its links are the archive's."""
    if not stat.S_ISREG(info.st_mode):
        return f"a {kind_of(info.st_mode)}, not a regular file"
    if info.st_nlink - own_links > 1:
        return f"{info.st_nlink} hard links: a new file has one"
    if info.st_uid != 0 and unprivileged == "refuse":
        return f"owned by uid {info.st_uid}, and unprivileged files are refused"
    return None
