"""
Reading the machine's files, bounded and without following links.

All paths are below one root, so that tests can supply a fake ``/proc``; the real root is ``/``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from collector.model.artifact import SourceInfo, Truncated
from collector.model.errors import StepError
from collector.model.text import escape, escape_name

READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY
# O_NONBLOCK: opening a planted FIFO would block; O_NOFOLLOW: a symlink may have been planted.
REGULAR_FLAGS = READ_FLAGS | os.O_NOFOLLOW | os.O_NONBLOCK
DIRECTORY_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY | os.O_NOFOLLOW
PIECE = 65_536
MAX_XATTRS = 32
MAX_XATTR_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Host:
    """Access to one machine's files."""

    root: str = "/"

    def path(self, path: str) -> str:
        """Return *path*, absolute on the machine, below the root."""
        return path if self.root == "/" else self.root.rstrip("/") + path

    def open(self, path: str, flags: int = READ_FLAGS) -> int:
        """Open *path*, one of the kernel's own files (``/proc``, ``/sys``, ``/dev/kmsg``)."""
        return os.open(self.path(path), flags)

    def read(self, path: str, *, limit: int) -> bytes:
        """Read at most *limit* bytes of *path*, one of the kernel's own files; raise `OSError` if that fails."""
        return read_all(self.open(path), limit=limit)

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(self.path(path)))


class OpenFd:
    """A descriptor that is closed at the end of a ``with`` block. A `contextlib.contextmanager` takes 3 us longer."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def open_regular(path: str, *, dir_fd: int | None = None, flags: int = REGULAR_FLAGS) -> int:
    """
    Open a regular file at a path that anybody may write to; by default never through a symlink.

    Raises:
        StepError: If it is not a regular file.
        OSError: From open(2); ``ELOOP`` for a symlink.
    """
    fd = os.open(path, flags, dir_fd=dir_fd)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        raise StepError(f"{path!r} is a {kind_of(mode)}, not a regular file")
    return fd


def read_all(fd: int, *, limit: int) -> bytes:
    """Return at most *limit* bytes of *fd*, and close it."""
    with OpenFd(fd):
        return b"".join(pieces(fd, limit=limit))


def read_at(dir_fd: int | None, name: str, limit: int) -> bytes:
    """Return the first *limit* bytes of a small file of the kernel's, by a single read."""
    fd = os.open(name, READ_FLAGS, dir_fd=dir_fd)
    try:  # not `OpenFd`: the process table makes nine such reads per process
        return os.read(fd, limit)
    finally:
        os.close(fd)


def pieces(fd: int, *, limit: int) -> Iterator[bytes]:
    """Yield at most *limit* bytes of *fd* from its current position, in pieces of at most 64 KiB."""
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
    Read the first 64 KiB of *fd* now and the rest on demand; *fd* is closed in any case.

    Args:
        fd: A file whose length is not known in advance.
        limit: Maximum bytes; if there are more, the stream ends with `Truncated`.
        read: Replaces `os.read`, for reads with a deadline.
        check: Called after each read, before its bytes are passed on; raises to withhold them.

    Returns:
        Bytes if that was all, else a stream that ends with `Truncated` at the limit or an error.

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
    """Read *size* bytes, or up to the end; a read in ``/proc`` may return less than asked for."""
    parts: list[bytes] = []
    left = size
    while left > 0 and (part := read(fd, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def open_beneath(dir_fd: int, path: str) -> int:
    """
    Open the regular file *path* below *dir_fd*, following no symlink at any level.

    Raises:
        StepError: If *path* leads out of the directory, or is not a regular file.
        OSError: From open(2); ``ELOOP`` or ``ENOTDIR`` for a symlink on the way.
    """
    *parents, name = _parts(path)
    with OpenFd(_descend(dir_fd, parents)) as parent:
        return open_regular(name, dir_fd=parent)


def stat_beneath(dir_fd: int, path: str) -> os.stat_result:
    """Return the status of *path* below *dir_fd*, which is not opened; raise as `open_beneath` does."""
    *parents, name = _parts(path)
    with OpenFd(_descend(dir_fd, parents)) as parent:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)


def is_writable_by_others(fd: int) -> bool:
    """
    Return whether others than its owner and root may write to a file or directory, which *fd* may have with ``O_PATH``.

    With an access control list, the group's bits are the most that anybody on it may do: systemd-coredump's let the
    user of the process read. Source: acl(5).
    """
    status = os.fstat(fd)
    by_group = bool(status.st_mode & stat.S_IWGRP) and (status.st_gid not in {0, os.getegid()} or has_acl(fd))
    return by_group or bool(status.st_mode & stat.S_IWOTH)


def has_acl(fd: int) -> bool:
    """Return whether a file or directory has an access control list."""
    try:
        os.getxattr(f"/proc/self/fd/{fd}", "system.posix_acl_access")
    except OSError:
        return False  # there is none, or this file system has none
    return True


def open_directory_beneath(dir_fd: int, path: str) -> int:
    """Open the directory *path* below *dir_fd*; raise as `open_beneath` does."""
    return _descend(dir_fd, _parts(path))


def _parts(path: str) -> list[str]:
    parts = path.split("/")
    if not all(parts) or {"..", "."} & set(parts):
        raise StepError(f"{path!r} leads out of its directory")
    return parts


def _descend(dir_fd: int, parts: list[str]) -> int:
    current = os.dup(dir_fd)
    try:
        for part in parts:
            inner = os.open(part, DIRECTORY_FLAGS, dir_fd=current)
            os.close(current)
            current = inner
    except BaseException:
        os.close(current)
        raise
    return current


def kind_of(mode: int) -> str:
    """Return the kind of file that *mode* (``st_mode``) stands for, in words."""
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


def describe(fd: int, path: str, *, xattrs: str | None = None) -> SourceInfo:
    """
    Return the owner, mode and mtime of an open file; *path* is for display, already escaped.

    *xattrs* is the prefix of the extended attributes to include, at most 32 of at most 4 KiB; ``None`` for none.
    """
    status = os.fstat(fd)
    return SourceInfo(
        path=path,
        uid=status.st_uid,
        gid=status.st_gid,
        mode=stat.S_IMODE(status.st_mode),
        mtime_ns=status.st_mtime_ns,
        xattrs=(_xattrs(fd, xattrs) or None) if xattrs is not None else None,
    )


def _xattrs(fd: int, prefix: str) -> dict[str, str]:
    try:
        names = [name for name in os.listxattr(fd) if name.startswith(prefix)][:MAX_XATTRS]
        return {escape_name(name): escape(os.getxattr(fd, name)[:MAX_XATTR_BYTES]) for name in names}
    except OSError:  # the file system has none, or one was removed meanwhile
        return {}
