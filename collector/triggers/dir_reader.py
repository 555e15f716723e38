"""Opening and removing files in watched directories, whatever their owners do with the names meanwhile."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, suppress
from typing import Literal

from collector.host.filehandle import handle_of, open_handle
from collector.host.files import READ_FLAGS, OpenFd, is_writable_by_others, kind_of
from collector.host.syscalls import being_written
from collector.host.trusted_path import FoundDirectory, readable
from collector.triggers.directory import Directory, FileEvent

# With O_PATH everything can be opened, and opening it does nothing: a device is not touched.
PIN_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# The owner of a file can make it wait, by a lease.
REOPEN_FLAGS = READ_FLAGS | os.O_NONBLOCK
# A user may have hundreds of directories; systemd starts services with a limit of 1,024 descriptors.
MAX_OPEN = 64


class PinnedFile:
    """
    A file, whatever has its name by now: what is judged is what is read.

    Args:
        fd: A descriptor with ``O_PATH``; it is closed at the end of the ``with`` block.
    """

    __slots__ = ("_fd", "_read_fd")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._read_fd: int | None = None

    def __enter__(self) -> PinnedFile:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
        if self.is_open:
            os.close(self.fd)

    @property
    def fd(self) -> int:
        """A descriptor to read a regular file; -1 if that is not permitted, or it is something else."""
        if self._read_fd is None:
            self._read_fd = -1
            if stat.S_ISREG(self.stat().st_mode):
                with suppress(OSError):
                    self._read_fd = os.open(f"/proc/self/fd/{self._fd}", REOPEN_FLAGS)
        return self._read_fd

    @property
    def is_open(self) -> bool:
        """Whether `fd` was asked for, and can be read."""
        return self._read_fd is not None and self._read_fd >= 0

    @property
    def is_written(self) -> bool | None:
        """Whether it is open for writing; ``None`` if that is not known."""
        return being_written(self.fd) if self.fd >= 0 else None

    def fileno(self) -> int:
        """Return the descriptor with ``O_PATH``."""
        return self._fd

    def stat(self) -> os.stat_result:
        return os.fstat(self._fd)

    def handle(self) -> str:
        """Return what leads to the file if it is moved."""
        return handle_of(self.fd) if self.fd >= 0 else ""


class DirReader(ExitStack):
    """
    Opens each directory once in its ``with`` block, and only if it is still the watched one.

    *handles* lead to files that may have been moved away since their event, by directory and name.
    """

    def __init__(self) -> None:
        super().__init__()
        self._found: dict[Directory, FoundDirectory] = {}
        self.handles: dict[tuple[Directory, str], str] = {}

    def dir_fd(self, directory: Directory) -> int:
        """Return the directory's descriptor, -1 if it is no longer there."""
        return self.find(directory).fd

    def find(self, directory: Directory) -> FoundDirectory:
        """Return what is at the directory's path, with descriptor -1 if it is no longer there."""
        if directory not in self._found:
            if len(self._found) >= MAX_OPEN:
                self.close()
                self._found.clear()
            self._found[directory] = FoundDirectory(-1, trusted=False)
            with suppress(OSError):
                self._found[directory] = directory.find()
                self.callback(os.close, self._found[directory].fd)
        return self._found[directory]

    def pin(self, event: FileEvent) -> PinnedFile | None:
        """Return the file of an event, wherever it was moved if it has a handle; ``None`` if it is gone."""
        dir_fd = self.dir_fd(event.directory)
        if dir_fd < 0:
            return None
        try:
            return PinnedFile(os.open(event.name, PIN_FLAGS, dir_fd=dir_fd))
        except OSError:
            return self._pin_moved(event, dir_fd)

    def is_moved(self, event: FileEvent, file: PinnedFile) -> bool:
        """Return whether no file has the name any more, though this one still exists."""
        try:
            os.stat(event.name, dir_fd=self.dir_fd(event.directory), follow_symlinks=False)
        except OSError:
            return file.stat().st_nlink > 0
        return False

    def _pin_moved(self, event: FileEvent, dir_fd: int) -> PinnedFile | None:
        """Return a file that is no longer under its name; ``None`` if it has no handle, or is gone."""
        handle = self.handles.get((event.directory, event.name))
        if not handle:
            return None
        try:
            # A handle cannot be opened by a descriptor with O_PATH.
            with OpenFd(readable(dir_fd)) as mount_fd:
                return PinnedFile(open_handle(mount_fd, handle, PIN_FLAGS))
        except OSError:
            return None


def refusal(fd: int, unprivileged: Literal["attribute", "refuse"], *, own_links: int = 0) -> str | None:
    """
    Return why a file must not be collected; ``None`` if it may be.

    Args:
        fd: The file, also with ``O_PATH``.
        unprivileged: Whether files of ordinary users are collected.
        own_links: How many of its links are the archive's.
    """
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        return f"a {kind_of(info.st_mode)}, not a regular file"
    if info.st_nlink - own_links > 1:
        return f"{info.st_nlink} hard links: a new file has one"
    if info.st_mode & stat.S_IWOTH:
        return "writable by everybody: it may not be its owner's word"
    if info.st_uid == 0 and is_writable_by_others(fd):
        return "root's, but writable by others: it may not be its owner's word"
    if info.st_uid != 0 and unprivileged == "refuse":
        return f"owned by uid {info.st_uid}, and unprivileged files are refused"
    return None
