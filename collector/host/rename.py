"""renameat2(2) with ``RENAME_NOREPLACE``: publish a name without ever replacing one that stands there."""

from __future__ import annotations

import os

from collector.host.libc import call

RENAME_NOREPLACE = 1


def rename_noreplace(old: str, new: str, *, dir_fd: int) -> None:
    """
    Rename within one directory.

    Raises:
        FileExistsError: If *new* exists.
        OSError: As renameat2(2) gives it.
    """
    call("renameat2", dir_fd, os.fsencode(old), dir_fd, os.fsencode(new), RENAME_NOREPLACE)
