"""Whether a directory is the daemon's alone, as its sockets and locks need it; for the daemon and for `doctor`."""

from __future__ import annotations

import os
import stat

MEND = "remove it, or set runtime.directory to one of your own"


def why_not_private(path: str) -> str | None:
    """
    Return why the directory at *path* is not this user's alone; ``None`` if it is.

    A group may pass through it, and no more.

    Raises:
        OSError: If it cannot be looked at.
    """
    status = os.lstat(path)
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not stat.S_IMODE(status.st_mode) & 0o067:
        return None
    return f"the runtime directory {path} is not a directory of uid {os.geteuid()} with mode 0700"
