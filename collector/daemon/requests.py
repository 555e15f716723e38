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
    MEMBERS_SOCKET_NAME,
    MESSAGE_LIMIT,
    SOCKET_NAME,
    Answer,
    MetricsRequest,
    MetricsText,
    Reply,
    Request,
    Status,
    StatusRequest,
    Summaries,
    SummariesRequest,
    Watched,
    WatchRequest,
)
from collector.model.decode import MalformedError, decode
from collector.model.errors import CollectorError, DeniedError, PressureError, UnreachableError, UsageError

A = TypeVar("A", Status, Watched, Summaries)

AS_ROOT = "run it as root (sudo)"
LOOK_AT_ITS_LOG = "see its log: journalctl -u collector"


def runtime_directory(config: str | None) -> str:
    """Return where the daemon of this configuration listens, also if the file was broken since it was started."""
    return effective_runtime_directory(load_lenient(config), is_root=os.geteuid() == 0, environ=os.environ)


@contextlib.contextmanager
def connected(directory: str, name: str = SOCKET_NAME, *, patience_s: float | None = None) -> Iterator[socket.socket]:
    """
    Connect to the daemon that listens in *directory*, on the socket called *name*.

    No answer is waited for longer than *patience_s*.

    Raises:
        UnreachableError: If none listens there.
        DeniedError: If this user may not connect.
    """
    path = os.path.join(directory, name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(patience_s)
        try:
            sock.connect(path)
        except PermissionError as exc:
            raise DeniedError(f"this user may not ask the daemon on {path}", hint=AS_ROOT) from exc
        except (TimeoutError, BlockingIOError) as exc:  # its queue of connections is full
            raise _stuck(path, exc) from exc
        except OSError as exc:
            raise UnreachableError(
                f"no daemon answers on {path}: {exc.strerror}", hint="is collector.service running?"
            ) from exc
        yield sock


def ask(sock: socket.socket, request: Request | SummariesRequest) -> Iterator[Answer]:
    """
    Send *request* and yield the answers, the last one a `Reply`, a `Status`, a `Watched` or `Summaries`.

    Raises:
        UnreachableError: If the daemon ends before it answers.
    """
    gone = "the daemon ended before it answered"
    try:
        sock.send(msgspec.json.encode(request))
        while data := sock.recv(MESSAGE_LIMIT):
            answer: Answer = decode(data, Answer)
            yield answer
            if isinstance(answer, Reply | Status | Watched | Summaries):
                return
    except TimeoutError as exc:
        raise _stuck("its control socket", exc) from exc
    except (ConnectionError, MalformedError) as exc:
        raise UnreachableError(f"{gone}: {exc}", hint=LOOK_AT_ITS_LOG) from exc
    raise UnreachableError(gone, hint=LOOK_AT_ITS_LOG)


def _stuck(where: str, exc: OSError) -> UnreachableError:
    hint = f"systemd's watchdog restarts it after WatchdogSec=; {LOOK_AT_ITS_LOG}"
    return UnreachableError(f"the daemon is stuck: it does not answer on {where}: {exc}", hint=hint)


def reply_to(directory: str, request: Request) -> Reply:
    """
    Send *request* to the daemon that listens in *directory*, and return its `Reply`, a refusal as well.

    Raises:
        CollectorError: If there is none; the class says why.
    """
    with connected(directory) as sock:
        for answer in ask(sock, request):
            if isinstance(answer, Reply):
                return answer
    raise UnreachableError("the daemon did not answer", hint=LOOK_AT_ITS_LOG)


def status_of(directory: str, *, patience_s: float | None = None) -> Status:
    """
    Return the status of the daemon that listens in *directory*; it may take *patience_s*.

    Raises:
        CollectorError: If there is none; the class says why.
    """
    return _answer(directory, StatusRequest(), Status, patience_s=patience_s)


def watched_of(directory: str, since_s: float) -> Watched:
    """
    Return the last minute of the daemon that listens in *directory*, as far as it is newer than *since_s* since boot.

    Raises:
        CollectorError: If there is none; the class says why.
    """
    return _answer(directory, WatchRequest(since_s), Watched)


def metrics_of(directory: str) -> str:
    """
    Return the metrics of the daemon that listens in *directory*, in the text format of Prometheus.

    Raises:
        CollectorError: If there is none; the class says why.
    """
    text = ""
    with connected(directory) as sock:
        for answer in ask(sock, MetricsRequest()):
            if isinstance(answer, MetricsText):
                text += answer.text
            elif isinstance(answer, Reply) and answer.exit_code:
                raise refusal(answer)
    return text


def summaries_of(directory: str) -> Summaries:
    """
    Return the list of incidents as the daemon that listens in *directory* tells it to members of ``archive.group``.

    Raises:
        CollectorError: If there is none, or this user is not a member.
    """
    return _answer(directory, SummariesRequest(), Summaries, name=MEMBERS_SOCKET_NAME)


def _answer(
    directory: str,
    request: Request | SummariesRequest,
    kind: type[A],
    *,
    name: str = SOCKET_NAME,
    patience_s: float | None = None,
) -> A:
    with connected(directory, name, patience_s=patience_s) as sock:
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
