"""Opening what the configuration names, component by component: only root's symlinks are followed."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Container

from collector.host.files import DIRECTORY_FLAGS, Host, OpenFd, kind_of
from collector.model.errors import StepError

MAX_SYMLINKS = 40
# As when a path is resolved, a directory on the way needs to be searched, not to be read.
SEARCH_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Identity = tuple[int, int]
"""Device and inode."""


class UntrustedSymlinkError(StepError):
    """A path leads through a symlink that neither root nor this process's user owns, or through too many."""


class AvoidedDirectoryError(StepError):
    """A path leads into a directory that is to be left alone."""


def open_directory(host: Host, path: str) -> int:
    """
    Open a directory that the configuration names, to read it.

    Raises:
        StepError: As `find_directory`.
        OSError: From open(2).
    """
    with OpenFd(find_directory(host, path)) as fd:
        return readable(fd)


def readable(directory_fd: int) -> int:
    """Return a descriptor that reads the directory of one with ``O_PATH``."""
    return os.open(".", DIRECTORY_FLAGS, dir_fd=directory_fd)


def find_directory(host: Host, path: str, *, below: int | None = None, avoid: Container[Identity] = ()) -> int:
    """
    Return a descriptor with ``O_PATH`` of a directory.

    Symlinks on the way are followed if they belong to root or to this process's user (``/var/run``, a log directory
    that was moved): whoever else owns one could lead root wherever he likes.

    Args:
        host: Gives access to the machine's files.
        path: Absolute, or relative to *below*.
        below: The directory to begin at.
        avoid: Directories in which, and below which, nothing is opened.

    Raises:
        UntrustedSymlinkError: If there is a symlink of another user on the way, or a loop of symlinks.
        AvoidedDirectoryError: If a directory on the way is one to *avoid*.
        StepError: If there is something else than a directory on the way.
        OSError: From open(2).
    """
    current = os.open(host.path("/"), SEARCH_FLAGS) if below is None else os.dup(below)
    todo = deque(part for part in path.split("/") if part)
    symlinks = 0
    try:
        while todo:
            name = todo.popleft()
            try:
                inner = os.open(name, SEARCH_FLAGS, dir_fd=current)
            except OSError as exc:
                if exc.errno not in {errno.ELOOP, errno.ENOTDIR}:
                    raise
                symlinks += 1
                target = _trusted_target(current, name, symlinks)
                todo.extendleft(part for part in reversed(target.split("/")) if part)
                inner = os.open(host.path("/"), SEARCH_FLAGS) if target.startswith("/") else os.dup(current)
            os.close(current)
            current = inner
            _check_avoided(current, path, avoid)
    except BaseException:
        os.close(current)
        raise
    return current


def identity(fd: int) -> Identity:
    info = os.fstat(fd)
    return info.st_dev, info.st_ino


def _check_avoided(fd: int, path: str, avoid: Container[Identity]) -> None:
    if avoid and identity(fd) in avoid:
        raise AvoidedDirectoryError(f"{path!r} is inside a directory of this program")


def _trusted_target(directory_fd: int, name: str, symlinks: int) -> str:
    """Return a symlink's target; its owner and its target are read through one descriptor."""
    with OpenFd(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)) as fd:
        status = os.fstat(fd)
        if not stat.S_ISLNK(status.st_mode):
            raise StepError(f"{name!r} is a {kind_of(status.st_mode)}, not a directory")
        if status.st_uid not in {0, os.geteuid()}:
            reason = f"{name!r} is a symlink of user {status.st_uid}, which is not followed"
            raise UntrustedSymlinkError(reason, hint="name the directory that it leads to, or let root own the symlink")
        if symlinks > MAX_SYMLINKS:
            raise UntrustedSymlinkError(f"more than {MAX_SYMLINKS} symlinks", hint="look for a loop")
        return os.readlink("", dir_fd=fd)
