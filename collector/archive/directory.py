"""Directories by descriptor: nothing planted at a name is ever followed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator

from collector.archive import layout
from collector.host.syscalls import call
from collector.model.errors import ArchiveError

DIRECTORY_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
CREATE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a FIFO planted at the name must not hold the open.
REPLACE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
APPEND_FLAGS = REPLACE_FLAGS | os.O_APPEND
KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE, fallocate(2)
READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_root(path: str, *, create: bool) -> int:
    """
    Open the archive's directory, mode 0700.

    Raises:
        ArchiveError: If it cannot be created or opened, or others could write to it.
    """
    try:
        if create:
            os.makedirs(path, mode=0o700, exist_ok=True)
        fd = os.open(path, DIRECTORY_FLAGS)
    except OSError as exc:
        hint = "archive.path must be a directory, not a symlink, that this user may create and write"
        raise ArchiveError(f"cannot open the archive {path}: {exc.strerror}", hint=hint) from exc
    status = os.fstat(fd)
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        os.close(fd)
        raise ArchiveError(
            f"the archive {path} belongs to uid {status.st_uid} with mode {stat.S_IMODE(status.st_mode):04o}",
            hint=f"chown it to uid {os.geteuid()} and chmod it to 0700: others must not be able to plant names there",
        )
    if create and stat.S_IMODE(status.st_mode) != 0o700:
        os.fchmod(fd, 0o700)
    return fd


@contextlib.contextmanager
def opened(name: str, dir_fd: int, *, create: bool = False) -> Iterator[int]:
    """Open the directory *name* below *dir_fd*, made with mode 0700 if *create* and it is not there."""
    if create:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=dir_fd)
    fd = os.open(name, DIRECTORY_FLAGS, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def opened_file(path: str, dir_fd: int) -> Iterator[int]:
    """Open the regular file at *path*, components separated by ``/``, following a symlink at none of them."""
    *parents, name = path.split("/")
    with contextlib.ExitStack() as stack:
        for parent in parents:
            dir_fd = stack.enter_context(opened(parent, dir_fd))
        fd = os.open(name, READ_FLAGS, dir_fd=dir_fd)
        stack.callback(os.close, fd)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ArchiveError(f"{path} is not a regular file")
        yield fd


def replace(name: str, data: bytes, dir_fd: int) -> None:
    """
    Replace *name* as a whole: whoever reads it finds the old file or the new one, never a part.

    Goes through ``NAME.new``, into the blocks that `allocate` may have set aside for it there.
    """
    temporary = f"{name}{layout.NEW}"
    fd = _open_own(temporary, REPLACE_FLAGS, dir_fd)
    try:
        _write_all(fd, data)
        os.ftruncate(fd, len(data))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    os.fsync(dir_fd)


def allocate(name: str, size: int, dir_fd: int) -> None:
    """
    Set *size* bytes of disk aside for a file that stays empty: what is written there later meets no full disk.

    Raises:
        OSError: ``ENOSPC`` where they are not to be had.
    """
    fd = _open_own(name, REPLACE_FLAGS, dir_fd)
    try:
        call("fallocate64", fd, KEEP_SIZE, 0, size)
    except OSError as exc:
        if exc.errno != errno.EOPNOTSUPP:
            raise
    finally:
        os.close(fd)


def append(name: str, line: bytes, dir_fd: int, *, durable: bool) -> None:
    """
    Append one line with one write, so that two writers never mix theirs.

    What is written survives the death of the writer; with *durable* it survives that of the machine,
    for the price of a journal commit.
    """
    fd = _open_own(name, APPEND_FLAGS, dir_fd)
    try:
        _write_all(fd, line + b"\n")
        if durable:
            os.fdatasync(fd)
    finally:
        os.close(fd)


def read(name: str, dir_fd: int, *, limit: int) -> bytes:
    """
    Read a regular file of the archive.

    Raises:
        ArchiveError: If it is not a regular file, or longer than *limit* bytes.
        OSError: As open(2) and read(2) give it.
    """
    with opened_file(name, dir_fd) as fd:
        size = os.fstat(fd).st_size
        if size > limit:
            raise ArchiveError(f"{name} is {size} bytes long, more than {limit}")
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read(limit)


def sync(path: str, dir_fd: int) -> None:
    """Bring a file, or the names in a directory, to the disk; components separated by ``/``."""
    *parents, name = path.split("/")
    with contextlib.ExitStack() as stack:
        for parent in parents:
            dir_fd = stack.enter_context(opened(parent, dir_fd))
        fd = os.open(name, READ_FLAGS, dir_fd=dir_fd)
        stack.callback(os.close, fd)
        os.fsync(fd)


def files(dir_fd: int, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield the path, relative to *dir_fd*, and the status of every regular file below; symlinks never followed."""
    with os.scandir(dir_fd) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        path = f"{prefix}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            try:
                with opened(entry.name, dir_fd) as inner:
                    yield from files(inner, f"{path}/")
            except OSError as exc:
                if exc.errno not in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR):
                    raise
        elif entry.is_file(follow_symlinks=False):
            yield path, os.stat(entry.name, dir_fd=dir_fd, follow_symlinks=False)


def give_back(path: str, dir_fd: int) -> tuple[int, int]:
    """
    Cut off what was reserved for a file behind its last data; return its length then, and its bytes of data.

    A copy reserves all of its space first: one that was killed early would hold it until its incident is deleted.
    """
    data = end = 0
    with opened_file(path, dir_fd) as fd:
        try:
            while True:
                start = os.lseek(fd, end, os.SEEK_DATA)
                end = os.lseek(fd, start, os.SEEK_HOLE)
                data += end - start
        except OSError as exc:
            if exc.errno != errno.ENXIO:  # no data behind *end*
                raise
        os.truncate(f"/proc/self/fd/{fd}", end)
    return end, data


def remove_tree(name: str, dir_fd: int) -> None:
    """
    Delete a directory and all in it, or whatever else has its name.

    `shutil.rmtree` with a *dir_fd* opens every level with O_NOFOLLOW.
    """
    if not shutil.rmtree.avoids_symlink_attacks:
        raise ArchiveError("this platform cannot delete a tree without following symlinks")
    if stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
        shutil.rmtree(name, dir_fd=dir_fd)
    else:
        os.unlink(name, dir_fd=dir_fd)


def _open_own(name: str, flags: int, dir_fd: int) -> int:
    """
    Open a file to write to, which may be there already.

    Raises:
        ArchiveError: If something else has its name, or it has a second one.
    """
    fd = os.open(name, flags, 0o600, dir_fd=dir_fd)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        os.close(fd)
        raise ArchiveError(f"{name!r} is not a file of the collector's own")
    return fd


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
