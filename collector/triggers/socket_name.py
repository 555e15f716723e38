"""The name of a socket that a trigger binds: free before, and the trigger's own afterwards."""

from __future__ import annotations

import os
import stat

from collector.model.errors import CollectorError, DeniedError


def free_name(path: str, trigger: str) -> None:
    """Remove a socket that an earlier run left behind; refuse a directory in which others could create one."""
    directory = os.path.dirname(path)
    try:
        info = os.stat(directory)
    except OSError as exc:
        raise CollectorError(f"trigger {trigger}: {directory}: {exc.strerror}", hint="create it, mode 0755") from exc
    if info.st_uid not in {0, os.geteuid()} or info.st_mode & 0o022:
        raise DeniedError(
            f"trigger {trigger}: others may write to {directory}",
            hint="put the socket in a directory that only root may write to",
        )
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode) or found.st_uid not in {0, os.geteuid()}:
        raise DeniedError(f"trigger {trigger}: {path} is not a socket of this user", hint="find out who created it")
    os.unlink(path)


def lost_name(path: str, inode: tuple[int, int]) -> str | None:
    """Return why *path* does not lead to the socket bound there, of that device and inode; ``None`` if it does."""
    try:
        info = os.lstat(path)
    except OSError as exc:
        return f"{path}: {exc.strerror}"
    return None if (info.st_dev, info.st_ino) == inode else f"{path} is another file now"
