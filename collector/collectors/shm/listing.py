"""What is in ``/dev/shm``."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from typing import NamedTuple

from collector.host.tree import Tree

ROOT = "/dev/shm"  # noqa: S108 - it is only read


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


def walk(tree: Tree[None], wanted: Callable[[str], bool] = lambda _: True) -> Iterator[ShmFile]:
    """Yield what is wanted by its name, a directory before its contents; only directories are opened."""
    for visit in tree.visit(None):
        for entry in tree.entries(visit):
            name = visit.prefix + entry.name
            try:
                if entry.is_dir(follow_symlinks=False):
                    tree.enter(visit, entry, None)
                status = entry.stat(follow_symlinks=False) if wanted(name) else None
            except OSError as exc:
                tree.unread.add(f"{ROOT}/{name}", exc, visit.owner)
                continue
            if status is not None:
                yield ShmFile(name, status)
