"""
Whether the machine goes up or down, asked of systemd itself: one D-Bus call on its private socket.

That is how ``systemctl is-system-running`` asks, which would be a fork. No file tells reliably: ``/run/nologin`` and
``/run/systemd/shutdown/scheduled`` exist only for some shutdowns.

Source: D-Bus Specification, "Message Protocol" and "Authentication Protocol"; org.freedesktop.systemd1(5), SystemState.
"""

from __future__ import annotations

import os
import struct

PRIVATE_SOCKET = "/run/systemd/private"
"""Of the manager of the whole system; for root only."""

ANSWER_LIMIT = 4096
"""Longest answer in bytes that is read; the real one has some 120."""

GOING_DOWN = "stopping"

_PATH, _INTERFACE, _MEMBER, _DESTINATION, _SIGNATURE = 1, 2, 3, 6, 8
_CALL, _RETURN, _FAILURE = 1, 2, 3
_FIXED = struct.Struct("<cBBBIII")


def login() -> bytes:
    """Return what is sent first: the login as this user."""
    return f"\0AUTH EXTERNAL {str(os.geteuid()).encode().hex()}\r\nBEGIN\r\n".encode()


def question() -> bytes:
    """
    Return what is sent once the login is answered: the call of ``Properties.Get``.

    Not together with the login: systemd 252 never reads what comes in the same packet.
    """
    body = _string("org.freedesktop.systemd1.Manager")
    body += _padding(len(body), 4) + _string("SystemState")
    fields = b""
    for code, kind, value in (
        (_PATH, "o", _string("/org/freedesktop/systemd1")),
        (_INTERFACE, "s", _string("org.freedesktop.DBus.Properties")),
        (_MEMBER, "s", _string("Get")),
        (_DESTINATION, "s", _string("org.freedesktop.systemd1")),
        (_SIGNATURE, "g", b"\x02ss\0"),
    ):
        fields += _padding(len(fields), 8) + bytes((code, 1)) + kind.encode() + b"\0" + value
    header = _FIXED.pack(b"l", _CALL, 0, 1, len(body), 1, len(fields)) + fields
    return header + _padding(len(header), 8) + body


def answered(received: bytes) -> str | None:
    """
    Return the state in an answer, such as ``running``; an empty string if it is none; ``None`` if more is to come.

    Args:
        received: All bytes so far: a line of the login, then messages.
    """
    line, end, message = received.partition(b"\r\n")
    if not end:
        return None if len(received) < ANSWER_LIMIT else ""
    if not line.startswith(b"OK "):
        return ""
    while len(message) >= _FIXED.size:
        order, kind, _, _, length, _, fields = _FIXED.unpack_from(message)
        start = _FIXED.size + fields
        start += -start % 8
        if order != b"l" or start + length > ANSWER_LIMIT or kind == _FAILURE:
            return ""
        if len(message) < start + length:
            return None
        if kind == _RETURN:
            return _state(message[start : start + length])
        message = message[start + length :]  # a signal: not meant for us
    return None


def _state(body: bytes) -> str:
    """Return the text of a body that is one variant of a string."""
    if not body.startswith(b"\x01s\0\0") or len(body) < 8:
        return ""
    (length,) = struct.unpack_from("<I", body, 4)
    return body[8 : 8 + length].decode("ascii", "replace")


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<I", len(raw)) + raw + b"\0"


def _padding(length: int, to: int) -> bytes:
    return bytes(-length % to)
