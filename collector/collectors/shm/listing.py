"""What is in ``/dev/shm``."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from collector.host.files import DIRECTORY_FLAGS, OpenFd
from collector.host.read_errors import ReadErrors

ROOT = "/dev/shm"  # noqa: S108 - it is only read
MAX_DEPTH = 16


class ShmFile(NamedTuple):
    """One name below the root; *name* is relative and as `os` functions return it."""

    name: str
    status: os.stat_result

    @property
    def is_segment(self) -> bool:
        return stat.S_ISREG(self.status.st_mode)

    @property
    def data_bytes(self) -> int:
        """What is allocated; a sparse file's size may be far more."""
        return self.status.st_blocks * 512


def length_of(fd: int, data_bytes: int) -> int:
    """Return the offset at which the first *data_bytes* of data end. Source: lseek(2), SEEK_DATA."""
    end, left = 0, data_bytes
    while left > 0:
        try:
            start = os.lseek(fd, end, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # only a hole follows
                break
            raise
        end = min(os.lseek(fd, start, os.SEEK_HOLE), start + left)
        left -= end - start
    return end


def walk(root_fd: int, unread: ReadErrors) -> Iterator[ShmFile]:
    """Yield everything below *root_fd*, a directory before its contents; only directories are opened."""
    yield from _walk(root_fd, "", os.fstat(root_fd).st_dev, unread)


def _walk(directory_fd: int, prefix: str, device: int, unread: ReadErrors) -> Iterator[ShmFile]:
    with os.scandir(directory_fd) as names:
        for found in names:
            name = prefix + found.name
            try:
                status = os.stat(found.name, dir_fd=directory_fd, follow_symlinks=False)
            except OSError as exc:
                unread.add(f"{ROOT}/{name}", exc)
                continue
            yield ShmFile(name, status)
            if stat.S_ISDIR(status.st_mode):
                yield from _descend(directory_fd, found.name, name, device, unread)


def _descend(parent_fd: int, base: str, name: str, device: int, unread: ReadErrors) -> Iterator[ShmFile]:
    if name.count("/") >= MAX_DEPTH:
        unread.add(f"{ROOT}/{name}", f"more than {MAX_DEPTH} directories deep")
        return
    try:
        fd = os.open(base, DIRECTORY_FLAGS, dir_fd=parent_fd)
    except OSError as exc:
        unread.add(f"{ROOT}/{name}", exc)
        return
    with OpenFd(fd):
        if os.fstat(fd).st_dev == device:
            yield from _walk(fd, name + "/", device, unread)
        else:
            unread.add(f"{ROOT}/{name}", "another file system is mounted there")
