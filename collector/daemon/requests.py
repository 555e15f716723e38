"""The client's side of the control socket."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from collector.config.directories import effective_runtime_directory
from collector.config.load import load_lenient
from collector.daemon.messages import (
    MESSAGE_LIMIT,
    SOCKET_NAME,
    Answer,
    Reply,
    Request,
    Status,
    StatusRequest,
    Watched,
    WatchRequest,
)
from collector.model.decode import MalformedError, decode
from collector.model.errors import CollectorError, DeniedError, PressureError, UnreachableError, UsageError

A = TypeVar("A", Status, Watched)

AS_ROOT = "run it as root (sudo)"
LOOK_AT_ITS_LOG = "see its log: journalctl -u collector"


def runtime_directory(config: str | None) -> str:
    """Return where the daemon of this configuration listens, also if the file was broken since it was started."""
    return effective_runtime_directory(load_lenient(config), is_root=os.geteuid() == 0, environ=os.environ)


@contextlib.contextmanager
def connected(directory: str) -> Iterator[socket.socket]:
    """
    Connect to the daemon that listens in *directory*.

    Raises:
        UnreachableError: If none listens there.
        DeniedError: If this user may not connect.
    """
    path = os.path.join(directory, SOCKET_NAME)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(path)
        except PermissionError as exc:
            raise DeniedError(f"this user may not ask the daemon on {path}", hint=AS_ROOT) from exc
        except OSError as exc:
            raise UnreachableError(
                f"no daemon answers on {path}: {exc.strerror}", hint="is collector.service running?"
            ) from exc
        yield sock


def ask(sock: socket.socket, request: Request) -> Iterator[Answer]:
    """
    Send *request* and yield the answers, the last one a `Reply`, a `Status` or a `Watched`.

    Raises:
        UnreachableError: If the daemon ends before it answers.
    """
    gone = "the daemon ended before it answered"
    try:
        sock.send(msgspec.json.encode(request))
        while data := sock.recv(MESSAGE_LIMIT):
            answer: Answer = decode(data, Answer)
            yield answer
            if isinstance(answer, Reply | Status | Watched):
                return
    except (ConnectionError, MalformedError) as exc:
        raise UnreachableError(f"{gone}: {exc}", hint=LOOK_AT_ITS_LOG) from exc
    raise UnreachableError(gone, hint=LOOK_AT_ITS_LOG)


def status_of(directory: str) -> Status:
    """
    Return the status of the daemon that listens in *directory*.

    Raises:
        CollectorError: If there is none; the class says why.
    """
    return _answer(directory, StatusRequest(), Status)


def watched_of(directory: str, since_s: float) -> Watched:
    """
    Return the last minute of the daemon that listens in *directory*, as far as it is newer than *since_s* since boot.

    Raises:
        CollectorError: If there is none; the class says why.
    """
    return _answer(directory, WatchRequest(since_s), Watched)


def _answer(directory: str, request: Request, kind: type[A]) -> A:
    with connected(directory) as sock:
        for answer in ask(sock, request):
            if isinstance(answer, kind):
                return answer
            if isinstance(answer, Reply):
                raise refusal(answer)
    raise UnreachableError("the daemon did not answer", hint=LOOK_AT_ITS_LOG)


def refusal(reply: Reply) -> CollectorError:
    """Return the error that the exit status of a refusal stands for."""
    kinds = (UsageError, UnreachableError, PressureError, DeniedError)
    kind = next((kind for kind in kinds if kind.exit_code == reply.exit_code), CollectorError)
    return kind(reply.message, hint=reply.hint)
