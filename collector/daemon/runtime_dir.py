"""The runtime directory: sockets and locks, for one daemon and its user alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat

from collector.model.errors import DeniedError


def check_directory(path: str) -> None:
    """
    Refuse a runtime directory that somebody else could have prepared.

    Raises:
        DeniedError: If it is a symlink, not ours, or open to others.
    """
    with contextlib.suppress(FileExistsError):
        os.makedirs(path, mode=0o700)
    status = os.lstat(path)
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or mode & 0o077:
        raise DeniedError(
            f"the runtime directory {path} is not a directory of uid {os.geteuid()} with mode 0700",
            hint="remove it, or set runtime.directory to one of your own",
        )


def hold(directory: str) -> int:
    """Hold the runtime directory for this daemon alone: two would seal each other's incidents."""
    check_directory(directory)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(fd)
        raise DeniedError(
            f"another daemon holds {directory}", hint="`collector status` asks it; stop it first"
        ) from exc
    return fd
