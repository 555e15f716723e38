"""The runtime directory: locked by one daemon, and its control socket bound again if its name is lost."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
from collections.abc import Callable

from collector.daemon.control import Client, MembersControl, RootControl
from collector.daemon.journal import get_logger
from collector.daemon.loop import Loop
from collector.daemon.messages import Request, SummariesRequest
from collector.daemon.private_directory import MEND, why_not_private
from collector.model.errors import DeniedError
from collector.pipeline.generation import Generation

log = get_logger()


class RuntimeDirectory:
    """
    The runtime directory of this daemon; members of ``archive.group``, if one is named, may enter it.

    Raises:
        DeniedError: As `lock_directory`.
    """

    def __init__(self, generation: Generation) -> None:
        self._path = generation.runtime_directory
        self._gid = group_id(generation.loaded.config.archive.group)
        self._lock = lock_directory(self._path, self._gid)
        self._members: MembersControl | None = None
        self._listen: Callable[[], tuple[RootControl, MembersControl | None]] | None = None
        self._control: RootControl | None = None
        self._problem: str | None = None
        """Why the control socket cannot be bound again, as logged."""

    def serve(
        self,
        loop: Loop,
        handle: Callable[[Client, Request], None],
        members: Callable[[Client, SummariesRequest], None],
    ) -> None:
        """Listen for clients; *handle* is called with each and its request, *members* with those of the group."""

        def listen() -> tuple[RootControl, MembersControl | None]:
            of_members = None if self._gid is None else MembersControl(loop, self._path, members, self._gid)
            return RootControl(loop, self._path, handle), of_members

        self._listen = listen
        self._control, self._members = listen()

    def check(self) -> None:
        """Bind the control socket again if its name or the directory was removed or replaced."""
        if self._control is None or self._listen is None or self._is_reachable():
            return
        try:
            self._lock = renew_lock(self._path, self._lock, self._gid)
            control, members = self._listen()
        except (DeniedError, OSError) as exc:
            if (problem := str(exc)) != self._problem:
                self._problem = problem
                log.error("control.failed", error=problem, hint=getattr(exc, "hint", None))  # noqa: TRY400 - no bug of ours
            return
        self.close()
        self._control, self._members, self._problem = control, members, None
        log.warning("control.restored", directory=self._path)

    def close(self) -> None:
        """Stop listening."""
        for control in (self._control, self._members):
            if control is not None:
                control.close()

    def _is_reachable(self) -> bool:
        return all(control.is_reachable for control in (self._control, self._members) if control is not None)


def group_id(name: str) -> int | None:
    """Return the number of a group; ``None`` if no group is named, or there is none: then nobody is a member."""
    if not name:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        log.warning("members.unknown", group=name, hint="archive.group names no group of this machine: create it")
        return None


def lock_directory(path: str, gid: int | None = None) -> int:
    """
    Make the runtime directory and lock it: two daemons would seal each other's incidents.

    Its mode becomes 0700 or, if the group *gid* may enter it, 0710: names in it stay the daemon's.

    Returns:
        The descriptor that holds the lock.

    Raises:
        DeniedError: If it is a symlink, belongs to another user, is open to others, or another daemon has locked it.
    """
    with contextlib.suppress(FileExistsError):
        os.makedirs(path, mode=0o700)
    if (reason := why_not_private(path)) is not None:
        raise DeniedError(reason, hint=MEND)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as exc:
        os.close(fd)
        raise DeniedError(
            f"another daemon has locked {path}", hint="`collector status` shows it; stop it first"
        ) from exc
    if gid is not None:
        os.fchown(fd, -1, gid)
    os.fchmod(fd, 0o700 if gid is None else 0o710)
    return fd


def renew_lock(path: str, held: int, gid: int | None = None) -> int:
    """Return *held*, or the lock of the directory that is at *path* by now; raise as `lock_directory` does."""
    with contextlib.suppress(FileNotFoundError):
        if os.path.samestat(os.stat(path), os.fstat(held)):
            return held
    lock = lock_directory(path, gid)
    os.close(held)
    return lock
