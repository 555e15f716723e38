"""Offers by a pipe, before Linux 6.17: the kernel starts a handler, which passes its pipe on to the daemon."""

from __future__ import annotations

import array
import os
import select
import socket
import stat
import struct
import sys
from collections.abc import Iterator

from collector.host.dumping import is_dumping, pidfd_process
from collector.host.held_process import DumpSource
from collector.triggers.base import TriggerContext
from collector.triggers.kernel_cores import handler
from collector.triggers.kernel_cores.dump_offer import GONE, UNTRUSTED, DumpOffer, LeftOut
from collector.triggers.kernel_cores.listening import Listening

HANDLER_NAME = "dump-handler"
MAX_UNREAD = 64
"""Connections whose message has not arrived yet; beyond, the oldest is closed."""

_UCRED = struct.Struct("=iII")


class PipeSource:
    """
    The socket that the handler connects to; see `OfferSource`.

    Args:
        ctx: The trigger's.
        left_out: Told of what is not an offer.
        pipe_limit: ``core_pipe_limit``, the crashes that the kernel holds at a time.
        store: Let the service manager keep the socket.
    """

    def __init__(self, ctx: TriggerContext, left_out: LeftOut, *, pipe_limit: int, store: bool) -> None:
        self._host = ctx.host
        self._left_out = left_out
        self._listening = Listening.at(handler.SOCKET_NAME, socket.SOCK_SEQPACKET, ctx, store=store)
        directory = os.path.dirname(self._listening.path)
        self._unread: dict[int, socket.socket] = {}
        self._epoll = select.epoll()
        self._epoll.register(self._listening.sock, select.EPOLLIN)
        self.pattern = f"|{os.path.realpath(sys.executable)} -I -S {_installed(directory)} %P"
        self.pipe_limit: int | None = pipe_limit

    @property
    def gone(self) -> str | None:
        return self._listening.gone

    def fileno(self) -> int:
        return self._epoll.fileno()

    @property
    def queue_fd(self) -> int:
        return self._listening.sock.fileno()

    def offers(self) -> Iterator[DumpOffer | None]:
        for fd, _ in self._epoll.poll(0):
            if fd == self._listening.sock.fileno():
                self._accept()
            elif fd in self._unread:
                offer = self._offer(self._unread[fd])
                self._forget(fd)
                yield offer

    def close(self, *, keep: bool) -> None:
        for fd in list(self._unread):
            self._forget(fd)
        self._epoll.close()
        self._listening.close(keep=keep)

    def _accept(self) -> None:
        while len(self._unread) < MAX_UNREAD:
            try:
                connection, _ = self._listening.sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            uid = _peer_uid(connection)
            if uid != 0:
                connection.close()
                self._left_out(UNTRUSTED, uid)
                continue
            connection.setblocking(False)
            self._unread[connection.fileno()] = connection
            self._epoll.register(connection, select.EPOLLIN)
        self._left_out(UNTRUSTED, 0)
        self._forget(next(iter(self._unread)))

    def _forget(self, fd: int) -> None:
        self._epoll.unregister(fd)
        self._unread.pop(fd).close()

    def _offer(self, connection: socket.socket) -> DumpOffer | None:
        """Return what the handler passes on: a pipe, and a pidfd of a process that dumps core at this moment."""
        passed = _passed(connection)
        pid = pidfd_process(self._host, passed[1]) if len(passed) == 2 and _is_pipe(passed[0]) else None
        if pid is not None and is_dumping(self._host, pid):
            return DumpOffer(source=DumpSource.PIPE, stream_fd=passed[0], pidfd=passed[1], pid=pid)
        for fd in passed:
            os.close(fd)
        self._left_out(UNTRUSTED if passed else GONE, 0)
        return None


def _installed(directory: str) -> str:
    """Copy the handler into *directory*, whatever it held before; return its path."""
    path = os.path.join(directory, HANDLER_NAME)
    with open(handler.__file__, "rb") as source:
        text = source.read()
    fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o500)
    with open(fd, "wb") as copy:
        copy.write(text)
    os.rename(path + ".new", path)
    return path


def _peer_uid(connection: socket.socket) -> int:
    uid: int = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1]
    return uid


def _passed(connection: socket.socket) -> list[int]:
    """Return the descriptors in the one message of a connection."""
    found = array.array("i")
    try:
        _, ancillary, _, _ = connection.recvmsg(64, socket.CMSG_SPACE(4 * found.itemsize), socket.MSG_CMSG_CLOEXEC)
    except OSError:
        return []
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)


def _is_pipe(fd: int) -> bool:
    return stat.S_ISFIFO(os.fstat(fd).st_mode)
