"""
What a socket says of itself, by its descriptor.

Not by Python's `socket`: that keeps the GIL in getsockopt(2), and in getsockname(2) when it takes over a descriptor.
Both wait for the socket's lock, which another process can hold indefinitely, and then no thread of this one would run.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import socket
import struct
from collections.abc import Callable

from collector.host.syscalls import call
from collector.model.text import escape

ADDRESS_BYTES = 128  # struct sockaddr_storage
ANY_VSOCK = 0xFFFFFFFF  # VMADDR_CID_ANY, VMADDR_PORT_ANY


def option(fd: int, level: int, name: int, size: int) -> bytes:
    """Return at most *size* bytes of an option; none if this kind of socket or this kernel does not have it."""
    buffer, length = ctypes.create_string_buffer(size), ctypes.c_uint32(size)
    try:
        call("getsockopt", fd, level, name, buffer, ctypes.byref(length))
    except OSError:
        return b""
    return buffer.raw[: length.value]


def number(fd: int, name: int) -> int:
    """Return an option of `socket.SOL_SOCKET` that is an int; 0 if there is none."""
    return int.from_bytes(option(fd, socket.SOL_SOCKET, name, 4), "little" if struct.pack("=H", 1)[0] else "big")


def queued(fd: int, request: int) -> int | None:
    """Return the bytes that ``SIOCINQ`` or ``SIOCOUTQ`` counts; ``None`` if this kind of socket has no such queue."""
    found = array.array("i", [0])
    try:
        fcntl.ioctl(fd, request, found)
    except OSError:
        return None
    return found[0]


def local(fd: int) -> str:
    """Return its own address as ``ss`` shows it; empty if it has none."""
    return _ask("getsockname", fd)


def remote(fd: int) -> str:
    """Return the other end's address as ``ss`` shows it; empty if it is not connected."""
    return _ask("getpeername", fd)


def _ask(function: str, fd: int) -> str:
    buffer, length = ctypes.create_string_buffer(ADDRESS_BYTES), ctypes.c_uint32(ADDRESS_BYTES)
    try:
        call(function, fd, buffer, ctypes.byref(length))
    except OSError:
        return ""
    return show_address(buffer.raw[: min(length.value, ADDRESS_BYTES)])


def show_address(raw: bytes) -> str:
    """
    Return a ``struct sockaddr`` as text, names escaped.

    Of a family that is not known here, the bytes after it in hexadecimal. Source: ip(7), ipv6(7), unix(7), netlink(7),
    packet(7), vsock(7).
    """
    family = int.from_bytes(raw[:2], "little" if struct.pack("=H", 1)[0] else "big")
    least, show = _FAMILIES.get(family, (0, _hexadecimal))
    return show(raw) if len(raw) >= least else _hexadecimal(raw)


def _hexadecimal(raw: bytes) -> str:
    return raw[2:].hex()


def _inet(raw: bytes) -> str:
    return f"{socket.inet_ntop(socket.AF_INET, raw[4:8])}:{int.from_bytes(raw[2:4], 'big')}"


def _inet6(raw: bytes) -> str:
    return f"[{socket.inet_ntop(socket.AF_INET6, raw[8:24])}]:{int.from_bytes(raw[2:4], 'big')}"


def _unix(raw: bytes) -> str:
    return "@" + escape(raw[3:]) if raw[2:3] == b"\0" else escape(raw[2:].rstrip(b"\0"))


def _netlink(raw: bytes) -> str:
    return "{}:{:#x}".format(*struct.unpack_from("=II", raw, 4))


def _packet(raw: bytes) -> str:
    return f"{int.from_bytes(raw[2:4], 'big'):#06x}:{struct.unpack_from('=i', raw, 4)[0] or '*'}"


def _vsock(raw: bytes) -> str:
    port, cid = ("*" if one == ANY_VSOCK else str(one) for one in struct.unpack_from("=II", raw, 4))
    return f"{cid}:{port}"


_FAMILIES: dict[int, tuple[int, Callable[[bytes], str]]] = {
    socket.AF_INET: (8, _inet),
    socket.AF_INET6: (24, _inet6),
    socket.AF_UNIX: (2, _unix),
    socket.AF_NETLINK: (12, _netlink),
    socket.AF_PACKET: (8, _packet),
    socket.AF_VSOCK: (12, _vsock),
}
"""How an address of each family is shown, and the bytes that this takes."""
