"""The runtime directory, and the control socket in it: requests of the command line, from root or the daemon's user."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from collector.daemon.loop import Loop
from collector.daemon.messages import (
    MEMBERS_SOCKET_NAME,
    MESSAGE_LIMIT,
    SOCKET_NAME,
    Answer,
    Reply,
    Request,
    SummariesRequest,
)
from collector.model.decode import MalformedError, decode
from collector.runner.events import StepProgressed

BACKLOG = 16
EMFILE_PAUSE_S = 0.5
RETRY_S = 0.25
"""Interval at which sending to a client without room is retried."""

WAITING_LIMIT = 256
LINGER_S = 600.0
"""How long the last messages are kept for a client that was stopped (Ctrl-Z)."""

SO_PEERGROUPS = 59  # include/uapi/asm-generic/socket.h
GROUPS_BYTES = 1024
"""What Python's `getsockopt` takes: whoever is in more than 256 groups is refused."""

PEER = struct.Struct("iII")  # struct ucred: pid, uid, gid; unix(7)


R = TypeVar("R")


class Client:
    """
    A connection to user *uid*. Sending never blocks: for a client that does not read, progress updates are dropped,
    and other messages wait until it reads again.
    """

    def __init__(self, sock: socket.socket, uid: int, loop: Loop) -> None:
        self.sock = sock
        self.uid = uid
        self._loop = loop
        self._waiting: deque[bytes] = deque(maxlen=WAITING_LIMIT)  # the oldest is dropped: the latest matters most
        self._until_s: float | None = None
        self.sock.setblocking(False)

    def send(self, answer: Answer) -> None:
        """Send one message, or keep it until there is room."""
        data = msgspec.json.encode(answer)
        if not self._waiting and self._sent(data):
            return
        if isinstance(answer, StepProgressed):
            return
        if not self._waiting:
            self._loop.call_later(RETRY_S, self._flush)
        self._waiting.append(data)

    def end(self, reply: Reply) -> None:
        """Send the last message and close."""
        self.send(reply)
        self._until_s = time.monotonic() + LINGER_S
        if not self._waiting:
            self.sock.close()

    def _sent(self, data: bytes) -> bool:
        """Return whether *data* needs no retry: it was sent, or the client is gone."""
        try:
            self.sock.send(data)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def _flush(self) -> None:
        while self._waiting and self._sent(self._waiting[0]):
            self._waiting.popleft()
        if self._waiting and (self._until_s is None or time.monotonic() < self._until_s):
            self._loop.call_later(RETRY_S, self._flush)
        elif self._until_s is not None:
            self._waiting.clear()
            self.sock.close()


class Control(Generic[R]):
    """
    A listening socket called *name*, in the runtime directory; *handle* is called with each client and its request.

    It is for root and the daemon's user, and for the group *gid*, if one is given.
    """

    kind: ClassVar[Any]
    limit: ClassVar[int]
    """Connections without a request."""
    limit_per_user: ClassVar[int]
    patience_s: ClassVar[float]
    """How long a connection may stay open without a request."""

    def __init__(
        self, loop: Loop, directory: str, handle: Callable[[Client, R], None], name: str, gid: int | None = None
    ) -> None:
        self._loop = loop
        self._handle = handle
        self._gid = gid
        self._clients: set[Client] = set()
        self._path = os.path.join(directory, name)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)  # only this user can have created it
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._sock.bind(self._path)
            os.chmod(self._path, 0o600)
            if gid is not None:
                os.chown(self._path, -1, gid)
                os.chmod(self._path, 0o660)
            self._sock.listen(BACKLOG)
            self._file = _file_at(self._path)
        except OSError:
            self._sock.close()
            raise
        self._resume: Callable[[], None] | None = None
        self._listen()

    @property
    def is_reachable(self) -> bool:
        """Return whether the socket still has its name."""
        try:
            return _file_at(self._path) == self._file
        except OSError:
            return False

    def close(self) -> None:
        """Stop listening; remove the socket, unless a successor has taken its name."""
        if self._resume is None:
            self._loop.unwatch(self._sock.fileno())
        else:
            self._resume()
        self._sock.close()
        if self.is_reachable:
            os.unlink(self._path)

    def _listen(self) -> None:
        self._resume = None
        self._loop.watch(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._sock.accept()
        except BlockingIOError:
            return  # the client is gone already
        except OSError:  # no descriptor is left: the socket stays readable, which would keep the loop spinning
            self._loop.unwatch(self._sock.fileno())
            self._resume = self._loop.call_later(EMFILE_PAUSE_S, self._listen)
            return
        _, uid, gid = PEER.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
        client = Client(sock, uid, self._loop)
        if uid not in (0, os.geteuid()) and (self._gid is None or self._gid not in {gid, *_groups(sock)}):
            client.end(Reply(exit_code=77, message=f"uid {uid} may not control the daemon"))
            return
        own = sum(1 for one in self._clients if one.uid == uid)
        if len(self._clients) >= self.limit or own >= self.limit_per_user:
            client.end(Reply(exit_code=69, message=f"{len(self._clients)} requests are being served already"))
            return
        self._clients.add(client)
        self._loop.watch(sock.fileno(), lambda: self._read(client))
        self._loop.call_later(self.patience_s, lambda: self._give_up(client))

    def _read(self, client: Client) -> None:
        """Read the one request of a connection and pass the client to the handler."""
        self._loop.unwatch(client.sock.fileno())
        self._clients.discard(client)
        try:
            data = client.sock.recv(MESSAGE_LIMIT)
            request: R = decode(data, self.kind)
        except (OSError, MalformedError) as exc:
            client.end(Reply(exit_code=64, message=f"not a request: {exc}"))
            return
        self._handle(client, request)

    def _give_up(self, client: Client) -> None:
        """Close a connection without a request: others may be waiting for its place."""
        if client in self._clients:
            self._loop.unwatch(client.sock.fileno())
            self._clients.discard(client)
            client.sock.close()


class RootControl(Control[Request]):
    """For root and the daemon's user."""

    kind = Request
    limit = limit_per_user = 16
    patience_s = 5.0

    def __init__(self, loop: Loop, directory: str, handle: Callable[[Client, Request], None]) -> None:
        super().__init__(loop, directory, handle, SOCKET_NAME)


class MembersControl(Control[SummariesRequest]):
    """For the members of the group *gid*, who cannot take root's place on the other socket, nor each other's."""

    kind = SummariesRequest
    limit = 8
    limit_per_user = 2
    patience_s = 1.0

    def __init__(
        self, loop: Loop, directory: str, handle: Callable[[Client, SummariesRequest], None], gid: int
    ) -> None:
        super().__init__(loop, directory, handle, MEMBERS_SOCKET_NAME, gid)


def _groups(sock: socket.socket) -> tuple[int, ...]:
    """Return the further groups that the peer had when it connected. Source: socket(7), sk_getsockopt() in net/core."""
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, GROUPS_BYTES)
    except OSError:
        return ()
    return struct.unpack(f"{len(data) // 4}I", data)


def _file_at(path: str) -> tuple[int, int]:
    info = os.lstat(path)
    return info.st_dev, info.st_ino
