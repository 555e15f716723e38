"""Opens the file to be copied without being tricked into opening something else, and notes whose it was."""

from __future__ import annotations

import os
import re
import stat

from collector.host import filesystem
from collector.host.files import READ_FLAGS, OpenFd, kind_of, open_regular
from collector.model.errors import StepError

DESCRIPTOR = re.compile(r"(/proc/(?:self|[0-9]+)/fd)/([0-9]+)")

INSTEAD = {
    stat.S_IFDIR: "name one file in it",
    stat.S_IFLNK: "name its target; see readlink -f",
    stat.S_IFIFO: "use cat",
    stat.S_IFCHR: "use cat",
    stat.S_IFBLK: "use dd",
    stat.S_IFSOCK: "a socket holds no file; ss -xp shows whose it is",
}
"""Hints for sources that are not regular files."""


def open_source(path: str) -> int:
    """
    Open a regular file for copying; ``/proc/PID/fd/N`` opens what that process holds open.

    Raises:
        StepError: If it is not a regular file, or its size says nothing about its content.
        OSError: As open(2) gives it.
    """
    fd = _open(path)
    try:
        _require_size(fd, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open(path: str) -> int:
    match = DESCRIPTOR.fullmatch(path)
    if match is None:
        _require_regular(os.lstat(path).st_mode, repr(path))
        return open_regular(path)
    with OpenFd(os.open(match[1], os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as directory_fd:
        return open_descriptor(directory_fd, int(match[2]))


def open_descriptor(directory_fd: int, number: int) -> int:
    """
    Open a file that another process has open: a memfd, one that has been unlinked since, or any other.

    The link is the kernel's own and must be followed; its target is checked first, because opening a device or a FIFO
    can have side effects.

    Args:
        directory_fd: On that process's ``/proc/PID/fd``, which cannot turn into another process's.
        number: The descriptor in that process.

    Raises:
        StepError: If it is not a regular file, or is replaced meanwhile.
        OSError: As open(2) gives it.
    """
    name = str(number)
    seen = os.stat(name, dir_fd=directory_fd)
    _require_regular(seen.st_mode, f"descriptor {number}")
    fd = os.open(name, READ_FLAGS | os.O_NONBLOCK, dir_fd=directory_fd)
    if not os.path.samestat(seen, os.fstat(fd)):
        os.close(fd)
        raise StepError(f"descriptor {number} was replaced while it was opened")
    return fd


def _require_regular(mode: int, what: str) -> None:
    """Check before a file is opened: opening a device or a FIFO can have side effects."""
    if not stat.S_ISREG(mode):
        hint = INSTEAD.get(stat.S_IFMT(mode))
        raise StepError(f"{what} is a {kind_of(mode)}, not a regular file", hint=hint)


def _require_size(fd: int, path: str) -> None:
    kind = filesystem.kind(fd)
    if kind in filesystem.SIZE_UNKNOWN:
        raise StepError(f"{path!r} is on {kind}: its size is not known in advance", hint="use cat")
