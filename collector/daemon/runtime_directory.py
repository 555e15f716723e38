"""The runtime directory: locked by one daemon, and its control socket bound again if its name is lost."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Callable

from collector.daemon.control import Client, Control
from collector.daemon.journal import get_logger
from collector.daemon.loop import Loop
from collector.daemon.messages import Request
from collector.model.errors import DeniedError

log = get_logger()


class RuntimeDirectory:
    """
    The runtime directory of this daemon, at *path*.

    Raises:
        DeniedError: As `lock_directory`.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = lock_directory(path)
        self._listen: Callable[[], Control] | None = None
        self._control: Control | None = None
        self._problem: str | None = None
        """Why the control socket cannot be bound again, as logged."""

    def serve(self, loop: Loop, handle: Callable[[Client, Request], None]) -> None:
        """Listen for clients; *handle* is called with each and its request."""
        self._listen = lambda: Control(loop, self._path, handle)
        self._control = self._listen()

    def check(self) -> None:
        """Bind the control socket again if its name or the directory was removed or replaced."""
        if self._control is None or self._listen is None or self._control.is_reachable:
            return
        try:
            self._lock = renew_lock(self._path, self._lock)
            control = self._listen()
        except (DeniedError, OSError) as exc:
            if (problem := str(exc)) != self._problem:
                self._problem = problem
                log.error("control.failed", error=problem, hint=getattr(exc, "hint", None))  # noqa: TRY400 - no bug of ours
            return
        self._control.close()
        self._control, self._problem = control, None
        log.warning("control.restored", directory=self._path)

    def close(self) -> None:
        """Stop listening."""
        if self._control is not None:
            self._control.close()


def lock_directory(path: str) -> int:
    """
    Make the runtime directory and lock it: two daemons would seal each other's incidents.

    Returns:
        The descriptor that holds the lock.

    Raises:
        DeniedError: If it is a symlink, belongs to another user, is open to others, or another daemon has locked it.
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
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(fd)
        raise DeniedError(
            f"another daemon has locked {path}", hint="`collector status` shows it; stop it first"
        ) from exc
    return fd


def renew_lock(path: str, held: int) -> int:
    """Return *held*, or the lock of the directory that is at *path* by now; raise as `lock_directory` does."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat(path), os.fstat(held)):
            return held
    lock = lock_directory(path)
    os.close(held)
    return lock
