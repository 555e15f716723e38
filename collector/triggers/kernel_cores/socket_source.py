"""Offers by the kernel's coredump socket (Linux 6.17): the kernel connects in the name of the process that crashed."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing

from collector.host.held_process import DumpSource
from collector.host.pidfd import peer_pidfd, pidfd_info
from collector.triggers.base import TriggerContext
from collector.triggers.kernel_cores.dump_offer import GONE, UNTRUSTED, DumpOffer, LeftOut
from collector.triggers.kernel_cores.listening import Listening

SOCKET_NAME = "cores.sock"
OFFERS_PER_READ = 64


class SocketSource:
    """The socket that ``core_pattern`` leads to; see `OfferSource`."""

    def __init__(self, ctx: TriggerContext, left_out: LeftOut, *, store: bool) -> None:
        self._listening = Listening.at(SOCKET_NAME, socket.SOCK_STREAM, ctx, store=store)
        self._left_out = left_out
        self.pattern = f"@@{self._listening.path}"
        self.pipe_limit: int | None = None

    @property
    def gone(self) -> str | None:
        return self._listening.gone

    def fileno(self) -> int:
        return self._listening.sock.fileno()

    @property
    def queue_fd(self) -> int:
        return self._listening.sock.fileno()

    def offers(self) -> Iterator[DumpOffer | None]:
        for _ in range(OFFERS_PER_READ):
            try:
                connection, _ = self._listening.sock.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            yield self._offer(connection)

    def close(self, *, keep: bool) -> None:
        self._listening.close(keep=keep)

    def _offer(self, connection: socket.socket) -> DumpOffer | None:
        """Return what the kernel offers; close a connection that is somebody else's."""
        with closing(connection):
            try:
                pidfd = peer_pidfd(connection)
            except OSError:
                self._left_out(GONE, None)
                return None
            try:
                info = pidfd_info(pidfd)
            except OSError:
                info = None
            if info is not None and info.dumped and info.pid:
                return DumpOffer(
                    source=DumpSource.SOCKET,
                    stream_fd=connection.detach(),
                    pidfd=pidfd,
                    pid=info.pid,
                    signal=info.signal,
                )
            os.close(pidfd)
            self._left_out(*((GONE, None) if info is None else (UNTRUSTED, info.uid)))
            return None
