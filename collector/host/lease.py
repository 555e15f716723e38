"""Is somebody still writing to a file? Asked of the kernel, without reading anybody's ``/proc``."""

from __future__ import annotations

import errno
import fcntl
import signal

F_SETSIG = 10  # linux/fcntl.h; Python does not name it


def being_written(fd: int) -> bool | None:
    """
    Return whether the file behind *fd* (open for reading only) is open for writing anywhere.

    A read lease is granted only while nobody has the file open for writing; it is given back at once.
    A writer who comes in between waits those microseconds, and the kernel tells the holder by a signal:
    by SIGURG, which is ignored by default, instead of SIGIO, which kills.

    Returns:
        ``None`` where the file system has no leases, or where the caller neither owns the file nor
        has CAP_LEASE.

    Source: fcntl(2), "Leases"; generic_add_lease() in fs/locks.c.
    """
    try:
        fcntl.fcntl(fd, F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as exc:
        return True if exc.errno == errno.EAGAIN else None
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
