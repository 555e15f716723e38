"""
Descriptors that go through a socket.

`socket.send_fds` and `socket.recv_fds` do not pass on the flags that they are given (Python 3.11 to 3.13): they wait,
and what they receive is inherited by every program that is started.
"""

from __future__ import annotations

import array
import socket
from collections.abc import Sequence

INT_BYTES = array.array("i").itemsize


def send_fds(sock: socket.socket, message: bytes, fds: Sequence[int], flags: int = 0) -> None:
    """Send *message* and duplicates of *fds*; raise `OSError` if that fails, ``ETOOMANYREFS`` if too many wait."""
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([message], rights, flags)


def receive_fds(sock: socket.socket, size: int, most: int, flags: int = 0) -> tuple[bytes, list[int], int]:
    """
    Return a message of at most *size* bytes, at most *most* descriptors with it, and the message's flags.

    The descriptors are the caller's, and closed on exec.
    """
    space = socket.CMSG_LEN(most * INT_BYTES)
    data, ancillary, found, _ = sock.recvmsg(size, space, flags | socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, content in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) - len(content) % INT_BYTES])
    return data, list(fds), found
