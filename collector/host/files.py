"""
Reading files of the machine, bounded and without following anything.

Every path is below one root, so that tests can hand in a fake ``/proc``; the real root is ``/``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from collector.model.errors import StepError

READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY
# O_NONBLOCK so that a FIFO planted at the path cannot hold the open; O_NOFOLLOW for planted symlinks.
REGULAR_FLAGS = READ_FLAGS | os.O_NOFOLLOW | os.O_NONBLOCK
PIECE = 65_536


@dataclass(frozen=True, slots=True)
class Host:
    """The door to one machine's files."""

    root: str = "/"

    def path(self, path: str) -> str:
        """Return where *path* (absolute on the machine) is found."""
        return path if self.root == "/" else self.root.rstrip("/") + path

    def open(self, path: str, flags: int = READ_FLAGS) -> int:
        """Open *path*, a file that the kernel made (``/proc``, ``/sys``, ``/dev/kmsg``)."""
        return os.open(self.path(path), flags)

    def read(self, path: str, *, limit: int) -> bytes:
        """
        Read at most *limit* bytes of *path*, a file that the kernel made.

        Raises:
            OSError: As open(2) and read(2) give it.
        """
        fd = self.open(path)
        try:
            return b"".join(pieces(fd, limit=limit))
        finally:
            os.close(fd)

    def stream(self, path: str, *, limit: int) -> Iterator[bytes]:
        """Yield the pieces of *path*, at most *limit* bytes in all; opened before the first piece."""
        fd = self.open(path)
        try:
            yield from pieces(fd, limit=limit)
        finally:
            os.close(fd)

    def open_regular(self, path: str, *, dir_fd: int | None = None) -> int:
        """
        Open a regular file that anybody may have planted.

        Neither a symlink, nor a FIFO, nor a device gets through.

        Raises:
            StepError: If it is anything but a regular file.
            OSError: As open(2) gives it; ``ELOOP`` for a symlink.
        """
        fd = os.open(path if dir_fd is not None else self.path(path), REGULAR_FLAGS, dir_fd=dir_fd)
        try:
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode):
                raise StepError(f"{path!r} is a {kind_of(mode)}, not a regular file")
        except BaseException:
            os.close(fd)
            raise
        return fd

    def listdir(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""
        return sorted(os.listdir(self.path(path)))


def pieces(fd: int, *, limit: int) -> Iterator[bytes]:
    """Yield what *fd* gives from where it stands, in pieces of at most 64 KiB, *limit* bytes in all."""
    left = limit
    while left > 0 and (piece := os.read(fd, min(PIECE, left))):
        left -= len(piece)
        yield piece


def kind_of(mode: int) -> str:
    """Name what *mode* (``st_mode``) says a file is."""
    names = {
        stat.S_IFREG: "regular file",
        stat.S_IFDIR: "directory",
        stat.S_IFLNK: "symlink",
        stat.S_IFIFO: "FIFO",
        stat.S_IFSOCK: "socket",
        stat.S_IFCHR: "character device",
        stat.S_IFBLK: "block device",
    }
    return names.get(stat.S_IFMT(mode), "file of unknown kind")
