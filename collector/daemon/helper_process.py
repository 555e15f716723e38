"""A small process that is forked from the daemon for one task, and has one socket to it."""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
from collections.abc import Callable
from typing import NoReturn

from collector.host import process

BLOCKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""For the daemon, where a whole unit or terminal gets them: a helper ends when the daemon does."""

SOCKET_FD = 3


def fork_helper(name: str, work: Callable[[socket.socket], None]) -> tuple[int, socket.socket]:
    """
    Fork a helper that does *work* with its end of a socket pair; return its PID and the daemon's end.

    Args:
        name: What ps shows, at most 15 characters.
        work: Returns when the daemon has closed its end.

    Raises:
        OSError: If no process or descriptor is available.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, BLOCKED)
    try:
        with theirs:
            if (pid := os.fork()) == 0:
                _be_helper(name, theirs, work)
    except OSError:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid, ours


def _be_helper(name: str, sock: socket.socket, work: Callable[[socket.socket], None]) -> NoReturn:
    """Give up all that a fork inherits but *sock* and the standard streams, do *work*, and end."""
    status = 1
    try:
        os.dup2(sock.fileno(), SOCKET_FD, inheritable=False)
        sock.detach()
        os.closerange(SOCKET_FD + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        signal.set_wakeup_fd(-1)
        gc.disable()  # it would touch, and so copy, every page that is the daemon's as well
        process.never_dump()
        process.set_name(name)
        work(socket.socket(fileno=SOCKET_FD))
        status = 0
    finally:
        os._exit(status)
