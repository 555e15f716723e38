"""Opening what the configuration names, component by component: only root's symlinks are followed."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Container
from typing import NamedTuple

from collector.host.files import DIRECTORY_FLAGS, Host, OpenFd, is_writable_by_others, kind_of
from collector.model.errors import StepError

MAX_SYMLINKS = 40
# As when a path is resolved, a directory on the way needs to be searched, not to be read.
SEARCH_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

Identity = tuple[int, int]
"""Device and inode."""


class UntrustedSymlinkError(StepError):
    """A path leads through a symlink that is not root's or this process's user's word, or through too many."""


class AvoidedDirectoryError(StepError):
    """A path leads into a directory that is to be left alone."""


class FoundDirectory(NamedTuple):
    """
    A descriptor with ``O_PATH`` of a directory.

    *trusted*: nobody but root, and this process's user, decides which directory is at its path; what is in it may be
    anybody's.
    """

    fd: int
    trusted: bool


def open_directory(host: Host, path: str) -> int:
    """
    Open a directory that the configuration names, to read it.

    Raises:
        StepError: As `find_directory`.
        OSError: From open(2).
    """
    with OpenFd(find_directory(host, path).fd) as fd:
        return readable(fd)


def readable(directory_fd: int) -> int:
    """Return a descriptor that reads the directory of one with ``O_PATH``."""
    return os.open(".", DIRECTORY_FLAGS, dir_fd=directory_fd)


def find_directory(
    host: Host, path: str, *, below: FoundDirectory | None = None, avoid: Container[Identity] = ()
) -> FoundDirectory:
    """
    Find a directory.

    Symlinks on the way are followed if they belong to root or to this process's user (``/var/run``, a log directory
    that was moved), and nobody else could have put them there: he could lead root wherever he likes.

    Args:
        host: Gives access to the machine's files.
        path: Absolute, or relative to *below*.
        below: The directory to begin at.
        avoid: Directories in which, and below which, nothing is opened.

    Raises:
        UntrustedSymlinkError: If there is a symlink on the way that is not followed, or a loop of symlinks.
        AvoidedDirectoryError: If a directory on the way is one to *avoid*.
        StepError: If there is something else than a directory on the way.
        OSError: From open(2).
    """
    current = os.open(host.path("/"), SEARCH_FLAGS) if below is None else os.dup(below.fd)
    trusted = below is None or below.trusted
    todo = deque(part for part in path.split("/") if part)
    symlinks = 0
    try:
        while todo:
            name = todo.popleft()
            trusted = trusted and keeps_names(current)
            try:
                inner = os.open(name, SEARCH_FLAGS, dir_fd=current)
            except OSError as exc:
                if exc.errno not in {errno.ELOOP, errno.ENOTDIR}:
                    raise
                symlinks += 1
                target = _trusted_target(current, name, symlinks, trusted=trusted)
                todo.extendleft(part for part in reversed(target.split("/")) if part)
                inner = os.open(host.path("/"), SEARCH_FLAGS) if target.startswith("/") else os.dup(current)
            os.close(current)
            current = inner
            _check_avoided(current, path, avoid)
    except BaseException:
        os.close(current)
        raise
    return FoundDirectory(current, trusted)


def keeps_names(directory_fd: int) -> bool:
    """
    Return whether only root and this process's user may rename what is theirs in a directory.

    A sticky one (``/tmp``) is safe for what others own in it.
    """
    status = os.fstat(directory_fd)
    return status.st_uid in {0, os.geteuid()} and (
        bool(status.st_mode & stat.S_ISVTX) or not is_writable_by_others(directory_fd)
    )


def identity(fd: int) -> Identity:
    info = os.fstat(fd)
    return info.st_dev, info.st_ino


def _check_avoided(fd: int, path: str, avoid: Container[Identity]) -> None:
    if avoid and identity(fd) in avoid:
        raise AvoidedDirectoryError(f"{path!r} is inside a directory of this program")


def _trusted_target(directory_fd: int, name: str, symlinks: int, *, trusted: bool) -> str:
    """Return the target of a symlink at a *trusted* path; its owner and target are read through one descriptor."""
    with OpenFd(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)) as fd:
        status = os.fstat(fd)
        if not stat.S_ISLNK(status.st_mode):
            raise StepError(f"{name!r} is a {kind_of(status.st_mode)}, not a directory")
        if status.st_uid not in {0, os.geteuid()}:
            reason = f"{name!r} is a symlink of user {status.st_uid}, which is not followed"
            raise UntrustedSymlinkError(reason, hint="name the directory that it leads to, or let root own the symlink")
        if not trusted:
            reason = f"{name!r} is a symlink that others may have put there, which is not followed"
            raise UntrustedSymlinkError(
                reason, hint="name the directory that it leads to, or let root own all directories on the way"
            )
        if symlinks > MAX_SYMLINKS:
            raise UntrustedSymlinkError(f"more than {MAX_SYMLINKS} symlinks", hint="look for a loop")
        return os.readlink("", dir_fd=fd)
