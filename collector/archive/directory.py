"""Files and directories of the archive, opened by descriptor: a symlink planted at a name is never followed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from typing import Self

from collector.archive import layout
from collector.host.holes import data_ranges
from collector.host.syscalls import call
from collector.model.errors import ArchiveError

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO planted at the name must not block the open.
REPLACE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
APPEND_FLAGS = REPLACE_FLAGS | os.O_APPEND
KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE, fallocate(2)
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class ArchiveDirectory:
    """
    The archive's open directory; made, mode 0700, if *create* and it does not exist.

    Raises:
        ArchiveError: If it cannot be created or opened, or others can write to it.
    """

    def __init__(self, path: str, *, create: bool) -> None:
        self.path = path
        try:
            if create:
                os.makedirs(path, mode=0o700, exist_ok=True)
            self.fd = os.open(path, DIRECTORY_FLAGS)
        except OSError as exc:
            hint = "archive.path must be a directory, not a symlink, that this user may create and write"
            raise ArchiveError(f"cannot open the archive {path}: {exc.strerror}", hint=hint) from exc
        status = os.fstat(self.fd)
        mode = stat.S_IMODE(status.st_mode)
        if status.st_uid != os.geteuid() or mode & (stat.S_IWGRP | stat.S_IWOTH):
            os.close(self.fd)
            hint = f"chown it to uid {os.geteuid()} and chmod it to 0700: others must not be able to plant names there"
            raise ArchiveError(f"the archive {path} belongs to uid {status.st_uid} with mode {mode:04o}", hint=hint)
        if create and mode != 0o700:
            os.fchmod(self.fd, 0o700)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def unfinished(self) -> list[str]:
        """Return the ids of the incidents that are not sealed, by label."""
        names = sorted(os.listdir(self.fd))
        return [incident for name in names if (incident := layout.id_before(name, layout.PARTIAL))]


@contextlib.contextmanager
def opened(name: str, dir_fd: int, *, create: bool = False) -> Iterator[int]:
    """Open the directory *name* in *dir_fd*; with *create*, make it with mode 0700 if it does not exist."""
    if create:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=dir_fd)
    fd = os.open(name, DIRECTORY_FLAGS, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def claimed(name: str, dir_fd: int) -> Iterator[bool]:
    """
    Lock the directory *name* in *dir_fd*; yield False if another process holds the lock, or the directory is gone.

    Raises:
        OSError: If it is not a directory.
    """
    with contextlib.ExitStack() as stack:
        try:
            fd = stack.enter_context(opened(name, dir_fd))
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, FileNotFoundError):
            yield False
        else:
            yield True


@contextlib.contextmanager
def opened_file(path: str, dir_fd: int) -> Iterator[int]:
    """Open the regular file at *path*, components separated by ``/``, none of which may be a symlink."""
    with _opened_any(path, dir_fd) as fd:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ArchiveError(f"{path} is not a regular file")
        yield fd


@contextlib.contextmanager
def opened_own(name: str, flags: int, dir_fd: int) -> Iterator[int]:
    """
    Open a file for writing, which may exist already.

    Raises:
        ArchiveError: If it is not a regular file, or has a second link.
    """
    fd = os.open(name, flags, 0o600, dir_fd=dir_fd)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise ArchiveError(f"{name!r} is not one of the collector's own files")
        yield fd
    finally:
        os.close(fd)


def replace(name: str, data: bytes, dir_fd: int) -> None:
    """
    Replace *name* atomically and durably.

    The data is first written to ``NAME.new``, into the blocks that `allocate` may have reserved there.
    """
    temporary = f"{name}{layout.NEW}"
    with opened_own(temporary, REPLACE_FLAGS, dir_fd) as fd:
        write_all(fd, data)
        os.ftruncate(fd, len(data))
        os.fsync(fd)
    os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    os.fsync(dir_fd)


def allocate(name: str, size: int, dir_fd: int) -> None:
    """
    Reserve *size* bytes of disk for a file that stays empty, so that writing to it later cannot fail on a full disk.

    Raises:
        OSError: ``ENOSPC`` if the disk has not enough free.
    """
    with opened_own(name, REPLACE_FLAGS, dir_fd) as fd:
        try:
            call("fallocate64", fd, KEEP_SIZE, 0, size)
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP:
                raise


def append(name: str, line: bytes, dir_fd: int, *, durable: bool) -> None:
    """
    Append *line* and a newline with one write, so that two writers never mix their lines.

    The line survives the death of the writer; with *durable* it survives a power cut too, at the price of a
    journal commit.
    """
    with opened_own(name, APPEND_FLAGS, dir_fd) as fd:
        write_all(fd, line + b"\n")
        if durable:
            os.fdatasync(fd)


def read(name: str, dir_fd: int, *, limit: int) -> bytes:
    """
    Read a regular file of the archive.

    Raises:
        ArchiveError: If it is not a regular file, or longer than *limit* bytes.
        OSError: From open(2) or read(2).
    """
    with opened_file(name, dir_fd) as fd:
        size = os.fstat(fd).st_size
        if size > limit:
            raise ArchiveError(f"{name} is {size} bytes long, more than {limit}")
        pieces = []
        while size > 0 and (piece := os.read(fd, size)):
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)


def sync(path: str, dir_fd: int) -> None:
    """Sync the file or directory at *path*, components separated by ``/``."""
    with _opened_any(path, dir_fd) as fd:
        os.fsync(fd)


def give_back(path: str, dir_fd: int) -> tuple[int, int]:
    """
    Free the space that is reserved for a file beyond its last data; return its new length, and its bytes of data.

    A copy first reserves all of its space: one that was killed early would hold it until its incident is deleted.
    """
    data = end = 0
    with opened_file(path, dir_fd) as fd:
        for start, end in data_ranges(fd, 0, os.fstat(fd).st_size):
            data += end - start
        os.truncate(f"/proc/self/fd/{fd}", end)
    return end, data


@contextlib.contextmanager
def opened_path(path: str, dir_fd: int) -> Iterator[int]:
    """Open the directory at *path*, components separated by ``/``; empty for *dir_fd* itself."""
    current = os.dup(dir_fd)
    try:
        for part in filter(None, path.split("/")):
            inner = os.open(part, DIRECTORY_FLAGS, dir_fd=current)
            os.close(current)
            current = inner
        yield current
    finally:
        os.close(current)


@contextlib.contextmanager
def _opened_any(path: str, dir_fd: int) -> Iterator[int]:
    parents, _, name = path.rpartition("/")
    with opened_path(parents, dir_fd) as parent:
        fd = os.open(name, READ_FLAGS, dir_fd=parent)
        try:
            yield fd
        finally:
            os.close(fd)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
