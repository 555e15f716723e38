"""
Reading files of the machine, bounded and without following anything.

Every path is below one root, so that tests can hand in a fake ``/proc``; the real root is ``/``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from collector.model.artifact import Truncated
from collector.model.errors import StepError

READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY
# O_NONBLOCK so that a FIFO planted at the path cannot hold the open; O_NOFOLLOW for planted symlinks.
REGULAR_FLAGS = READ_FLAGS | os.O_NOFOLLOW | os.O_NONBLOCK
DIRECTORY_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
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
            require_regular(os.fstat(fd).st_mode, path)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def listdir(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""
        return sorted(os.listdir(self.path(path)))


def require_regular(mode: int, path: str) -> None:
    """Raise `StepError` unless *mode* (``st_mode``) is a regular file's."""
    if not stat.S_ISREG(mode):
        raise StepError(f"{path!r} is a {kind_of(mode)}, not a regular file")


def pieces(fd: int, *, limit: int) -> Iterator[bytes]:
    """Yield what *fd* gives from where it stands, in pieces of at most 64 KiB, *limit* bytes in all."""
    left = limit
    while left > 0 and (piece := os.read(fd, min(PIECE, left))):
        left -= len(piece)
        yield piece


def body(
    fd: int,
    *,
    limit: int,
    read: Callable[[int, int], bytes] = os.read,
    check: Callable[[], None] | None = None,
) -> bytes | Iterator[bytes]:
    """
    Read the first 64 KiB of *fd* now, the rest as it is asked for; *fd* is closed in any case.

    Args:
        fd: A file that the kernel made, or any other whose length is unknown.
        limit: Bytes in all; if there is more, the stream ends with `Truncated`.
        read: Reads so many bytes of a descriptor; another than `os.read` may give up in time.
        check: Called after each read and before its bytes are passed on; raises to withhold them.

    Returns:
        Bytes if that was all, else a stream, which ends with `Truncated` at the limit or an error.

    Raises:
        OSError: If the first read fails, or *check* raises it.
    """
    stream = _checked(fd, limit, read, check)
    first = next(stream, b"")
    return first if len(first) < min(PIECE, limit) else chain((first,), stream)


def _checked(
    fd: int, limit: int, read: Callable[[int, int], bytes], check: Callable[[], None] | None
) -> Iterator[bytes]:
    """Yield full pieces, each checked before it is passed on."""
    left, started = limit, False
    try:
        while piece := _filled(fd, min(PIECE, left), read):
            if check is not None:
                check()
            yield piece
            started = True
            left -= len(piece)
        if left == 0 and read(fd, 1):
            raise Truncated(f"only the first {limit} bytes were read")
    except (OSError, StepError) as exc:
        if not started:
            raise
        raise Truncated(str(exc)) from exc
    finally:
        os.close(fd)


def _filled(fd: int, size: int, read: Callable[[int, int], bytes]) -> bytes:
    """Read *size* bytes or up to the end: files in ``/proc`` give a page at a time."""
    parts: list[bytes] = []
    left = size
    while left > 0 and (part := read(fd, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def open_beneath(dir_fd: int, path: str) -> int:
    """
    Open the regular file *path* below *dir_fd*, following nothing at any level.

    Raises:
        StepError: If *path* leads out, or is anything but a regular file.
        OSError: As open(2) gives it; ``ELOOP`` or ``ENOTDIR`` for a symlink on the way.
    """
    *parents, name = path.split("/")
    if not all((*parents, name)) or ".." in (*parents, name):
        raise StepError(f"{path!r} leads out of its directory")
    current = os.dup(dir_fd)
    try:
        for parent in parents:
            inner = os.open(parent, DIRECTORY_FLAGS, dir_fd=current)
            os.close(current)
            current = inner
        return Host().open_regular(name, dir_fd=current)
    finally:
        os.close(current)


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
