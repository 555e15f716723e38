"""Opening what the configuration names, component by component: only root's symlinks are followed."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque

from collector.host.files import DIRECTORY_FLAGS, Host, OpenFd, kind_of
from collector.model.errors import StepError

MAX_SYMLINKS = 40


def open_directory(host: Host, path: str) -> int:
    """
    Open a directory that the configuration names.

    Symlinks on the way are followed if they belong to root or to this process's user (``/var/run``, a log directory
    that was moved).

    Raises:
        StepError: If there is a symlink of another user on the way.
        OSError: From open(2).
    """
    current = os.open(host.path("/"), DIRECTORY_FLAGS)
    todo = deque(part for part in path.split("/") if part)
    symlinks = 0
    try:
        while todo:
            name = todo.popleft()
            try:
                inner = os.open(name, DIRECTORY_FLAGS, dir_fd=current)
            except OSError as exc:
                if exc.errno not in {errno.ELOOP, errno.ENOTDIR}:
                    raise
                symlinks += 1
                target = _trusted_target(current, name, path, symlinks)
                todo.extendleft(part for part in reversed(target.split("/")) if part)
                inner = os.open(host.path("/"), DIRECTORY_FLAGS) if target.startswith("/") else os.dup(current)
            os.close(current)
            current = inner
    except BaseException:
        os.close(current)
        raise
    return current


def _trusted_target(directory_fd: int, name: str, path: str, symlinks: int) -> str:
    """Return a symlink's target; its owner and its target are read through one descriptor."""
    with OpenFd(os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory_fd)) as fd:
        status = os.fstat(fd)
        if not stat.S_ISLNK(status.st_mode):
            raise StepError(f"{path!r}: {name!r} is a {kind_of(status.st_mode)}, not a directory")
        if status.st_uid not in {0, os.geteuid()}:
            raise StepError(f"{path!r}: {name!r} is a symlink of user {status.st_uid}, which is not followed")
        if symlinks > MAX_SYMLINKS:
            raise StepError(f"{path!r}: more than {MAX_SYMLINKS} symlinks")
        return os.readlink("", dir_fd=fd)
