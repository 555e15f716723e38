"""
What the kernel says of the process behind a pidfd, which cannot turn into another process.

Source: include/uapi/linux/pidfd.h, ``PIDFD_GET_INFO`` (Linux 6.13; core dumps since 6.16, their signal since 6.19).
"""

from __future__ import annotations

import array
import fcntl
import socket
import struct
from typing import NamedTuple

SO_PEERPIDFD = 77
INFO = struct.Struct("=QQ11IiII")
INFO_BYTES = 128
"""Longer than any kernel's so far: each fills in what it knows."""

GET_INFO = 0xC000FF0B | INFO_BYTES << 16  # _IOWR(0xFF, 11, INFO_BYTES)
CREDENTIALS, CGROUP, COREDUMP, COREDUMP_SIGNAL = 1 << 1, 1 << 2, 1 << 4, 1 << 6
COREDUMPED = 1


class PidfdInfo(NamedTuple):
    """
    A process; *pid* is its number in this PID namespace, 0 if it has none here.

    *dumped* is whether it dumps core or has, ``None`` if the kernel cannot say; *signal* is why, if known.
    """

    pid: int
    ppid: int
    uid: int
    effective_uid: int
    cgroup: int | None
    dumped: bool | None
    signal: int | None


def peer_pidfd(sock: socket.socket) -> int:
    """Return a pidfd of the process at the other end of a connection (Linux 6.5); the caller closes it."""
    return sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)


def pidfd_info(pidfd: int) -> PidfdInfo:
    """Return what the kernel knows; raise `OSError`: ``ENOTTY`` or ``EINVAL`` before 6.13, ``ESRCH`` if it is gone."""
    raw = array.array("B", bytes(INFO_BYTES))
    struct.pack_into("=Q", raw, 0, CREDENTIALS | CGROUP | COREDUMP | COREDUMP_SIGNAL)
    fcntl.ioctl(pidfd, GET_INFO, raw)
    mask, cgroup, _, tgid, ppid, uid, _, effective, *_, dump, number = INFO.unpack_from(raw)
    return PidfdInfo(
        pid=tgid,
        ppid=ppid,
        uid=uid,
        effective_uid=effective,
        cgroup=cgroup if mask & CGROUP else None,
        dumped=bool(dump & COREDUMPED) if mask & COREDUMP else None,
        signal=number if mask & COREDUMP_SIGNAL and number else None,
    )
