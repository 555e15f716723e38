"""
The kernel's notifications of exec, new user, core dump and exit: the netlink proc connector.

Two filters in the kernel keep unwanted events out of this process: the connector's own (since Linux 6.6), and a classic
BPF program on the socket, which also drops the exits of threads.

Source: Documentation/driver-api/connector.rst; include/uapi/linux/cn_proc.h; drivers/connector/cn_proc.c.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import NamedTuple

NETLINK_CONNECTOR = 11
CN_IDX_PROC = 1
CN_VAL_PROC = 1
PROC_CN_MCAST_LISTEN = 1
EXEC = 0x0000_0002
UID = 0x0000_0004
COMM = 0x0000_0200
NONZERO_EXIT = 0x2000_0000
COREDUMP = 0x4000_0000
EXIT = 0x8000_0000
SO_ATTACH_FILTER = 26
SO_RCVBUFFORCE = 33

_NLMSG = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_CN_MSG = struct.Struct("=IIIIHH")  # idx, val, sequence, ack, length, flags
_EVENT = _NLMSG.size + _CN_MSG.size
_HEAD = struct.Struct("=IIQ")  # what, CPU, nanoseconds since boot
_DATA = _EVENT + _HEAD.size
_IDS = struct.Struct("=II")  # PID and TGID; of the parent in a core dump
_EXIT = struct.Struct("=IIIIII")  # PID, TGID, code, signal to the parent, PID and TGID of the parent
_BUFFER = 4096
NLMSG_DONE = 3


class ProcEvent(NamedTuple):
    """
    One event; *code* (a wait(2) status), *comm* (the new name) and *uid* (the new real one) are set for the kinds that
    have them.

    *pid* is the process's first thread, *thread* the one that it happened to.
    """

    kind: int
    pid: int
    parent: int = 0
    code: int = 0
    comm: bytes = b""
    thread: int = 0
    uid: int = 0


class ProcConnector:
    """
    A subscription to process events.

    Args:
        kinds: A combination of EXEC, UID, COMM, COREDUMP and EXIT (with a status other than 0).
        buffer_bytes: Socket buffer; an event takes about 1 KiB.

    Raises:
        OSError: ``EPERM`` without CAP_NET_ADMIN, ``EPROTONOSUPPORT`` without CONFIG_PROC_EVENTS.
    """

    def __init__(self, *, kinds: int, buffer_bytes: int) -> None:
        self.overflows = 0
        """How often the kernel found the buffer full; any number of events may be lost each time."""
        self._buffer = bytearray(_BUFFER)
        flags = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, flags, NETLINK_CONNECTOR)
        try:
            self._grow(buffer_bytes)
            self._filter(kinds)
            self._socket.bind((0, CN_IDX_PROC))
            self._listen(kinds)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self, limit: int) -> Iterator[ProcEvent]:
        """Yield the events available now, at most *limit*."""
        for _ in range(limit):
            try:
                size, sender = self._socket.recvfrom_into(self._buffer)
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno != errno.ENOBUFS:
                    raise
                self.overflows += 1
                continue
            if sender[0] == 0 and size >= _DATA + _IDS.size:  # port 0 is the kernel
                yield self._event()

    def close(self) -> None:
        self._socket.close()

    def _event(self) -> ProcEvent:
        kind, _, _ = _HEAD.unpack_from(self._buffer, _EVENT)
        if kind == EXIT:
            _, pid, code, _, _, parent = _EXIT.unpack_from(self._buffer, _DATA)
            return ProcEvent(kind, pid, parent, code)
        thread, pid = _IDS.unpack_from(self._buffer, _DATA)
        if kind == COMM:
            start = _DATA + _IDS.size
            return ProcEvent(kind, pid, comm=bytes(self._buffer[start : start + 16]).partition(b"\0")[0])
        if kind == COREDUMP:
            _, parent = _IDS.unpack_from(self._buffer, _DATA + _IDS.size)
            return ProcEvent(kind, pid, parent, thread=thread)
        if kind == UID:
            uid, _ = _IDS.unpack_from(self._buffer, _DATA + _IDS.size)
            return ProcEvent(kind, pid, uid=uid)
        return ProcEvent(kind, pid)

    def _grow(self, size_bytes: int) -> None:
        """Set the buffer; exceeding net.core.rmem_max needs CAP_NET_ADMIN."""
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size_bytes)
        except PermissionError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size_bytes)

    def _filter(self, kinds: int) -> None:
        program = _program(kinds)
        code = ctypes.create_string_buffer(program, len(program))
        pointer = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, pointer)

    def _listen(self, kinds: int) -> None:
        """Subscribe. Kernels before 6.6 ignore a request that names event kinds."""
        wanted = kinds if not kinds & EXIT else kinds & ~EXIT | NONZERO_EXIT
        selective = tuple(int(part) for part in os.uname().release.split("-")[0].split(".")[:2]) >= (6, 6)
        data = struct.pack("=II", PROC_CN_MCAST_LISTEN, wanted)[: 8 if selective else 4]
        body = _CN_MSG.pack(CN_IDX_PROC, CN_VAL_PROC, 0, 0, len(data), 0) + data
        port = self._socket.getsockname()[0]
        self._socket.sendto(_NLMSG.pack(_NLMSG.size + len(body), NLMSG_DONE, 0, 0, port) + body, (0, 0))


def _program(kinds: int) -> bytes:
    """
    Assemble the filter: the requested kinds, of processes rather than threads, and only exits with a status.

    Source: Documentation/networking/filter.rst.
    """
    load, jump_if, jump_if_x, to_x, accept, drop = 0x20, 0x15, 0x1D, 0x07, 0xFFFF, 0

    def instruction(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
        return struct.pack("=HBBI", code, if_true, if_false, operand)

    def big_endian(value: int) -> int:  # BPF loads in network order, the event is in the machine's
        return socket.htonl(value)

    asked = [kind for kind in (EXEC, UID, COMM, COREDUMP) if kinds & kind]
    thread_check = len(asked) + 4  # line numbers; a jump counts from the line after it
    lines = [instruction(load, _EVENT)]
    for line, kind in enumerate(asked, start=1):
        # Any thread can dump core; exec, a new user and a new name count only for the process's first thread.
        target = thread_check + 4 if kind == COREDUMP else thread_check
        lines.append(instruction(jump_if, big_endian(kind), target - line - 1))
    lines.append(instruction(jump_if, big_endian(EXIT) if kinds & EXIT else 0xFFFF_FFFF, 0, 7))
    lines += [
        instruction(load, _DATA + 8),  # the exit's status
        instruction(jump_if, 0, 5, 0),
        instruction(load, _DATA),  # the thread is ...
        instruction(to_x, 0),
        instruction(load, _DATA + 4),  # ... its process's first one
        instruction(jump_if_x, 0, 0, 1),
        instruction(0x06, accept),
        instruction(0x06, drop),
    ]
    return b"".join(lines)
