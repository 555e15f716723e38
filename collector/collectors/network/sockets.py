"""
One socket of a process, asked through a duplicate of its descriptor.

So only the process's own sockets are touched. The kernel's tables have those of the whole namespace: with 26,000
connections, ``/proc/net/tcp`` took 46 ms, 3.9 MB and the locks of all buckets, a dump by sock_diag(7) with the same
facts 28 ms and 10.7 MB, both unparsed; this takes 31 us a socket, 10 of them in system calls. And a sandbox that may
not enter namespaces cannot send sock_diag into another one. Nothing is changed: ``SO_ERROR``, which is cleared by
reading it, is left alone.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import termios

import msgspec

from collector.collectors.network.tcp_info import INFO_BYTES, TCP_INFO, parse_tcp_info
from collector.host.files import OpenFd
from collector.host.procfs import Process
from collector.host.socket_facts import local, number, option, queued, remote

# include/uapi/asm-generic/socket.h
SO_MEMINFO, SO_NETNS_COOKIE = 55, 71
# include/uapi/linux/sock_diag.h, SK_MEMINFO_*; in this order.
MEMORY = ("receive", "receive_max", "send", "send_max", "forward", "queued", "options", "backlog", "drops")
SIOCINQ, SIOCOUTQ = termios.FIONREAD, termios.TIOCOUTQ
TCP_PROTOCOLS = frozenset({socket.IPPROTO_TCP, 262})  # and MPTCP
FAMILIES = {1: "unix", 2: "inet", 10: "inet6", 16: "netlink", 17: "packet", 40: "vsock"}
INTERNET = frozenset({socket.AF_INET, socket.AF_INET6})
TYPES = {1: "stream", 2: "dgram", 3: "raw", 4: "rdm", 5: "seqpacket"}
PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp", 136: "udplite", 262: "mptcp"}


class SocketRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    A line of ``sockets.jsonl``; docs/collectors/network.md explains the fields.

    Of *memory*, zeros are left out. *receive_queue* and *send_queue* are bytes as ``ss`` shows them; ``None`` where a
    socket has no such queue.
    """

    pid: int
    fd: int
    inode: int
    uid: int
    family: str
    type: str
    protocol: str = ""
    state: str = ""
    local: str = ""
    remote: str = ""
    receive_queue: int | None = None
    send_queue: int | None = None
    peer_pid: int | None = None
    namespace: int | None = None
    memory: dict[str, int] = {}
    tcp: dict[str, int] = {}

    @property
    def waiting(self) -> int:
        """What waits in it: bytes in both directions, or connections nobody has accepted."""
        return (self.receive_queue or 0) + (self.send_queue or 0) + self.tcp.get("backlog", 0)


def socket_inode(process: Process, fd: int) -> int | None:
    """Return the inode of the socket that *fd* is; ``None`` if it is something else, or closed; or raise `OSError`."""
    try:
        target = process.link(f"fd/{fd}")
    except FileNotFoundError:
        return None
    kind, _, number = target.partition(":")
    return int(number[1:-1]) if kind == "socket" else None


def read_socket(process: Process, fd: int) -> SocketRow | None:
    """
    Return what is known of a socket; ``None`` if *fd* is another file by now.

    May wait for as long as one of the process's threads holds the socket's lock, such as while it sends from a mapping
    of a dead server's file.

    Raises:
        OSError: If it may not be duplicated, or is closed.
    """
    with OpenFd(process.duplicate(fd)) as own:
        status = os.fstat(own)
        return _row(process.pid, fd, own, status) if stat.S_ISSOCK(status.st_mode) else None


def _row(pid: int, fd: int, own: int, status: os.stat_result) -> SocketRow:
    family, kind, protocol = (number(own, one) for one in (socket.SO_DOMAIN, socket.SO_TYPE, socket.SO_PROTOCOL))
    state = "LISTEN" if number(own, socket.SO_ACCEPTCONN) else ""
    tcp: dict[str, int] = {}
    if protocol in TCP_PROTOCOLS and family in INTERNET:
        state, tcp = parse_tcp_info(option(own, socket.IPPROTO_TCP, TCP_INFO, INFO_BYTES))
    memory = option(own, socket.SOL_SOCKET, SO_MEMINFO, 64)
    words = struct.unpack(f"={len(memory) // 4}I", memory[: len(memory) // 4 * 4])
    cookie = option(own, socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
    peer = option(own, socket.SOL_SOCKET, socket.SO_PEERCRED, 12) if family == socket.AF_UNIX else b""
    return SocketRow(
        pid=pid,
        fd=fd,
        inode=status.st_ino,
        uid=status.st_uid,
        family=FAMILIES.get(family, str(family)),
        type=TYPES.get(kind, str(kind or "")),
        protocol=PROTOCOLS.get(protocol, str(protocol or "")) if family in INTERNET else str(protocol or ""),
        state=state,
        local=local(own),
        remote=remote(own),
        receive_queue=queued(own, SIOCINQ),
        send_queue=queued(own, SIOCOUTQ),
        peer_pid=(struct.unpack_from("=i", peer)[0] or None) if peer else None,
        namespace=struct.unpack("=Q", cookie)[0] if len(cookie) == struct.calcsize("=Q") else None,
        memory={name: value for name, value in zip(MEMORY, words, strict=False) if value},
        tcp=tcp,
    )
