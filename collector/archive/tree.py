"""
Directory trees that somebody else may have made: walked and deleted without recursion, two descriptors at a time.

3,000 nested directories are deeper than Python recurses, than descriptors reach, and than a path may be long.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from itertools import islice

from collector.archive import directory, layout
from collector.host.holes import data_ranges
from collector.model.errors import ArchiveError

BATCH = 1000
"""Entries of a directory that are in memory at a time."""

DEPTH = 64
"""Most levels of directories that are looked into; each is opened from the top, component by component."""

GONE = (errno.ENOENT, errno.ELOOP, errno.ENOTDIR)
"""Deleted or replaced since it was listed."""


def files(dir_fd: int) -> Iterator[tuple[str, os.stat_result]]:
    """
    Yield path, relative to *dir_fd*, and status of every regular file below it; symlinks are not followed.

    What lies deeper than `DEPTH` is left out: the collector has not made it.
    """
    todo = [""]
    while todo:
        prefix = todo.pop()
        try:
            with directory.opened_path(prefix, dir_fd) as fd:
                found, inner = _listed(prefix, fd)
        except OSError as exc:
            if exc.errno not in GONE:
                raise
        else:
            todo.extend(inner)
            yield from found


def space(dir_fd: int) -> int:
    """Return the bytes on disk that the files below *dir_fd* take."""
    return sum(status.st_blocks * 512 for _, status in files(dir_fd))


def written(dir_fd: int) -> int:
    """Return the bytes of data in the files of an incident's steps: what is only reserved for a copy is none."""
    return sum(_data(path, dir_fd, status) for path, status in files(dir_fd) if "/" in path)


def writing(dir_fd: int) -> int:
    """Return the bytes of data in the files of an incident that are not complete yet, counted as `written` does."""
    return sum(_data(path, dir_fd, status) for path, status in files(dir_fd) if path.endswith(layout.PART))


def _data(path: str, dir_fd: int, status: os.stat_result) -> int:
    if not path.endswith(layout.PART):
        return min(status.st_size, status.st_blocks * 512)
    with contextlib.suppress(OSError, ArchiveError), directory.opened_file(path, dir_fd) as fd:
        return sum(end - start for start, end in data_ranges(fd, 0, status.st_size))
    return 0  # complete meanwhile, and renamed


def _listed(prefix: str, fd: int) -> tuple[list[tuple[str, os.stat_result]], list[str]]:
    """Return the regular files of a directory, sorted, and its directories in the opposite order."""
    found: list[tuple[str, os.stat_result]] = []
    inner: list[str] = []
    with os.scandir(fd) as entries:
        for entry in entries:
            path = f"{prefix}{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                if path.count("/") < DEPTH:
                    inner.append(f"{path}/")
            elif entry.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    found.append((path, os.stat(entry.name, dir_fd=fd, follow_symlinks=False)))
    return sorted(found, key=lambda one: one[0]), sorted(inner, reverse=True)


def remove_tree(name: str, dir_fd: int) -> None:
    """
    Delete a directory and everything in it, or whatever else has that name; can be killed and called again.

    The directories within one are moved to the top before it is deleted, so that none is ever deep.

    Raises:
        OSError: If something cannot be deleted.
    """
    if not stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=dir_fd)
        return
    with directory.opened(name, dir_fd) as top:
        for inner, is_directory in _entries(top):
            if not is_directory:
                os.unlink(inner, dir_fd=top)
                continue
            try:
                with directory.opened(inner, top) as fd:
                    _empty(fd, top)
                os.rmdir(inner, dir_fd=top)
            except OSError as exc:
                if exc.errno not in (*GONE, errno.ENOTEMPTY):
                    raise
    os.rmdir(name, dir_fd=dir_fd)


def _empty(fd: int, top: int) -> None:
    """Delete the files of a directory, and move its directories to the top, under names that nobody can guess."""
    for name, is_directory in _entries(fd):
        if is_directory:
            os.rename(name, os.urandom(16).hex(), src_dir_fd=fd, dst_dir_fd=top)
        else:
            os.unlink(name, dir_fd=fd)


def _entries(fd: int) -> Iterator[tuple[str, bool]]:
    """Yield the entries of a directory, each with whether it is a directory, until it is empty."""
    while True:
        with os.scandir(fd) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in islice(entries, BATCH)]
        if not found:
            return
        yield from found
