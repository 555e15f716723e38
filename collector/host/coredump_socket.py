"""
The kernel's coredump socket: it connects for each crash, and holds the process until the connection is closed.

Source: include/uapi/linux/coredump.h, fs/coredump.c (Linux 6.17).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from collector.model.errors import StepError

REQUEST = struct.Struct("=IIQ")  # size, size_ack, mask
ACK = struct.Struct("=IIQ")  # size, spare, mask
KERNEL, REJECT, WAIT = 1, 4, 8
MARK = struct.Struct("=I")
ACCEPTED = 0


def accept(fd: int) -> None:
    """
    Ask for the dump on a connection of the kernel; then it comes, until the end of the stream.

    The process is held beyond that, until the connection is closed.

    Raises:
        StepError: If the kernel does not agree.
        OSError: From the socket.
    """
    with _socket(fd) as sock:
        _answer(sock, KERNEL | WAIT)
        mark = sock.recv(MARK.size, socket.MSG_WAITALL)
    if len(mark) < MARK.size or MARK.unpack(mark)[0] != ACCEPTED:
        raise StepError(f"the kernel does not send the dump: mark {mark.hex() or 'missing'}")


def reject(fd: int) -> None:
    """Refuse the dump, without waiting: the process ends. It does so as well if the kernel can't be told."""
    with contextlib.suppress(OSError, StepError), _socket(fd) as sock:
        _answer(sock, REJECT, socket.MSG_DONTWAIT)


def end(fd: int) -> None:
    """End the connection, of which workers may have copies: the process is let go at once."""
    with contextlib.suppress(OSError), _socket(fd) as sock:
        sock.shutdown(socket.SHUT_RDWR)


def _answer(sock: socket.socket, mask: int, flags: int = 0) -> None:
    """Read the kernel's request and answer it."""
    raw = sock.recv(REQUEST.size, flags | socket.MSG_PEEK)
    if len(raw) < REQUEST.size:
        raise StepError("the kernel's request is incomplete")
    size, ack_size, offered = REQUEST.unpack(raw)
    if ack_size < ACK.size or mask & ~offered:
        raise StepError(f"the kernel offers no such dump: mask {offered:#x}, acknowledged by {ack_size} bytes")
    sock.recv(size, flags)
    sock.send(ACK.pack(ACK.size, 0, mask), flags)


def _socket(fd: int) -> socket.socket:
    return socket.socket(fileno=os.dup(fd))
