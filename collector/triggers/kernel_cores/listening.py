"""A listening socket in the runtime directory, which outlives the daemon if the service manager keeps it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from dataclasses import dataclass
from typing import Self

from collector.model.errors import CollectorError
from collector.triggers.base import TriggerContext
from collector.triggers.socket_name import free_name, lost_name

BACKLOG = 1024
"""Crashes that wait to be taken over; of those beyond, the kernel logs that they are lost. One takes 1 ms."""


@dataclass(slots=True)
class Listening:
    """A listening socket, with its path and what tells that from another file's."""

    sock: socket.socket
    path: str
    inode: tuple[int, int]

    @classmethod
    def at(cls, name: str, kind: socket.SocketKind, ctx: TriggerContext, *, store: bool) -> Self:
        """
        Listen at *name* in the runtime directory, with the socket that an earlier run has stored if there is one.

        Args:
            store: Let the service manager keep it, so that crashes wait while the daemon is started again.

        Raises:
            CollectorError: If the directory is not this user's alone, another trigger listens there, or the socket
                cannot be bound.
        """
        path = os.path.join(ctx.runtime_directory, name)
        sock = _stored(path, kind, ctx) if store else None
        if sock is None:
            if _is_taken(path, kind):
                raise CollectorError(f"trigger {ctx.id}: another one listens at {path}", hint="configure one only")
            free_name(path, ctx.id)
            sock = _bound(path, kind, ctx.id)
            if store and ctx.descriptors is not None:
                ctx.descriptors.store(name, sock.fileno())
        info = os.lstat(path)
        return cls(sock, path, (info.st_dev, info.st_ino))

    @property
    def gone(self) -> str | None:
        """Why nobody reaches it any more; ``None`` while it is reached."""
        return lost_name(self.path, self.inode)

    def close(self, *, keep: bool) -> None:
        """Close it; unless it is to be kept for a successor, let go who waits in it, if only in the store's copy."""
        if not keep:
            if self.gone is None:
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
            with contextlib.suppress(OSError):  # BlockingIOError: that was the last one
                while True:
                    self.sock.accept()[0].close()
        self.sock.close()


def _stored(path: str, kind: socket.SocketKind, ctx: TriggerContext) -> socket.socket | None:
    """Return the socket that an earlier run stored, if it is the one that *path* still leads to."""
    fd = None if ctx.descriptors is None else ctx.descriptors.stored(os.path.basename(path))
    if fd is None:
        return None
    sock = socket.socket(fileno=fd)
    listens = sock.type == kind and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if not listens or sock.getsockname() != path or not os.path.lexists(path):
        sock.close()
        return None
    sock.setblocking(False)
    return sock


def _is_taken(path: str, kind: socket.SocketKind) -> bool:
    """Return whether somebody listens at *path*; a socket that a killed run has left refuses connections."""
    with socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK) as probe:
        try:
            return probe.connect_ex(path) in {0, errno.EAGAIN}
        except OSError:  # too long a path
            return False


def _bound(path: str, kind: socket.SocketKind, trigger: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        os.fchmod(sock.fileno(), 0o600)  # the mode that bind gives the name: it is never open to others
        sock.bind(path)
        sock.listen(BACKLOG)
    except OSError as exc:
        sock.close()
        raise CollectorError(
            f"trigger {trigger}: {path}: {exc.strerror or exc}", hint="a socket's path has at most 107 bytes"
        ) from exc
    return sock
