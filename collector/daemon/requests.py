"""The client's side of the control socket."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import msgspec

from collector.config.directories import effective_runtime_directory
from collector.config.load import glance
from collector.daemon.messages import MESSAGE_LIMIT, SOCKET_NAME, Answer, Reply, Request, Status
from collector.model.errors import UnreachableError


def runtime_directory(config: str | None) -> str:
    """Return where the daemon of this configuration listens, also if the file was broken since it was started."""
    return effective_runtime_directory(glance(config), is_root=os.geteuid() == 0, environ=os.environ)


@contextlib.contextmanager
def connected(directory: str) -> Iterator[socket.socket]:
    """
    Connect to the daemon whose runtime directory this is.

    Raises:
        UnreachableError: If none listens there.
    """
    path = os.path.join(directory, SOCKET_NAME)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(path)
        except OSError as exc:
            raise UnreachableError(
                f"no daemon answers on {path}: {exc.strerror}", hint="is collector.service running?"
            ) from exc
        yield sock


def ask(sock: socket.socket, request: Request) -> Iterator[Answer]:
    """
    Send *request* and yield the answers, the last one a `Reply` or a `Status`.

    Raises:
        UnreachableError: If the daemon ends before it has answered.
    """
    sock.send(msgspec.json.encode(request))
    while data := sock.recv(MESSAGE_LIMIT):
        answer: Answer = msgspec.json.decode(data, type=Answer)
        yield answer
        if isinstance(answer, Reply | Status):
            return
    raise UnreachableError("the daemon ended before it had answered", hint="see its log: journalctl -u collector")
