from __future__ import annotations

import socket
import struct

import pytest

from collector.collectors.network.tcp_info import parse_tcp_info
from collector.host.socket_facts import show_address

ADDRESSES = {
    "127.0.0.1:80": struct.pack("=H", socket.AF_INET) + bytes([0, 80, 127, 0, 0, 1]) + bytes(8),
    "[::1]:443": struct.pack("=H", socket.AF_INET6) + bytes([1, 187]) + bytes(4) + bytes(15) + b"\1" + bytes(4),
    "/run/a\\x0ab": struct.pack("=H", socket.AF_UNIX) + b"/run/a\nb\0",
    "@a\\x00b\\x1b": struct.pack("=H", socket.AF_UNIX) + b"\0a\0b\x1b",
    "": struct.pack("=H", socket.AF_UNIX),
    "7:0x3": struct.pack("=HHII", socket.AF_NETLINK, 0, 7, 3),
    "0x0003:*": struct.pack("=H2siHBB8x", socket.AF_PACKET, b"\0\3", 0, 1, 0, 6),
    "0x0800:2": struct.pack("=H2siHBB8x", socket.AF_PACKET, b"\10\0", 2, 1, 0, 6),
    "2:1024": struct.pack("=HHII4x", socket.AF_VSOCK, 0, 1024, 2),
    "*:*": struct.pack("=HHII4x", socket.AF_VSOCK, 0, 0xFFFFFFFF, 0xFFFFFFFF),
    "beef": struct.pack("=H", 250) + b"\xbe\xef",
    "7f": struct.pack("=H", socket.AF_INET) + b"\x7f",
}


@pytest.mark.parametrize("shown", ADDRESSES)
def test_address_is_shown_as_ss_does(shown: str) -> None:
    """Names escaped; of an unknown family, or cut off, the bytes."""
    assert show_address(ADDRESSES[shown]) == shown


def test_tcp_info_of_an_older_kernel_has_fewer_fields() -> None:
    """As many as came; an unknown state is its number."""
    raw = bytes([1, 0, 2]) + bytes(5) + struct.pack("=I", 204_000)
    assert parse_tcp_info(raw) == ("ESTABLISHED", {"retransmits": 2, "probes": 0, "backoff": 0, "rto_us": 204_000})
    assert parse_tcp_info(bytes([99]))[0] == "99"
    assert parse_tcp_info(b"") == ("", {})


def test_tcp_info_of_a_listening_socket_is_its_queue() -> None:
    """The kernel puts it where a connection has its segments."""
    raw = bytes([10]) + bytes(23) + struct.pack("=II", 3, 2) + bytes(200)
    assert parse_tcp_info(raw) == ("LISTEN", {"backlog": 3, "backlog_max": 2})
