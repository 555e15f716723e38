"""
Entries of the journal with fields, by its native protocol.

Source: systemd.io/JOURNAL_NATIVE_PROTOCOL; systemd.journal-fields(7); add_matches_for_unit() in systemd's
src/shared/logs-show.c.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator, MutableMapping
from typing import Any

from collector.daemon.log_kinds import KINDS, Priority, priority_of
from collector.daemon.sentences import sentence
from collector.model.signals import signal_name
from collector.model.text import printable

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "collector"
VALUE_LENGTH = 4096
"""Characters of a value: all 30 of an entry fit into a datagram of 208 KiB (``net.core.wmem_default``)."""

SO_SNDBUFFORCE = 32
BUFFER_BYTES = 1 << 20
"""
While journald does not read, 512 entries of 600 bytes wait, as many as systemd allows (``net.unix.max_dgram_qlen``); by
the kernel's default buffer it is 167. A machine out of I/O has journald wait for its disk.
"""

CRASH_NOUNS = frozenset({"marker", "incident", "step", "evidence", "journal"})
"""What is before the dot of an event about a crash."""

TOLD_TO_THE_UNIT = frozenset({"incident.archived", "incident.refused"})
"""What ``journalctl -u`` shows of the crashed unit, too: one line for each incident."""

OF_A_CRASH = {
    "pid": "COREDUMP_PID",
    "uid": "COREDUMP_UID",
    "comm": "COREDUMP_COMM",
    "exe": "COREDUMP_EXE",
    "signal": "COREDUMP_SIGNAL",
    "unit": "COREDUMP_UNIT",
    "user_unit": "COREDUMP_USER_UNIT",
}
"""As systemd-coredump names them. Its MESSAGE_ID is not used: `coredumpctl` lists no incident of ours as its own."""

_OF_LINES = frozenset({"event", "level", "at"})
"""What JSON lines need; the journal has it itself, or by another name."""

_OWN_LINES = frozenset({"exception"})
"""Fields of several lines that no user can choose."""


def stream_is_journal(fd: int) -> bool:
    """Return whether *fd* is the stream that systemd has connected to the journal. Source: systemd.exec(5)."""
    try:
        info = os.fstat(fd)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{info.st_dev}:{info.st_ino}"


def _datagrams() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)


class JournalSocket:
    """
    Sends entries without blocking.

    Args:
        address: The journal's socket.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._socket = _datagrams()
        with contextlib.suppress(OSError):  # without CAP_NET_ADMIN
            self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER_BYTES)

    def is_there(self) -> bool:
        """Return whether somebody listens."""
        with _datagrams() as probe:
            return probe.connect_ex(self._address) == 0

    def send(self, entry: bytes) -> bool:
        """Send *entry*; return whether the journal has taken it: not if it hangs, or is being started again."""
        try:
            self._socket.sendto(entry, self._address)
        except OSError:
            return False
        return True


def entry_of(level: str, fields: MutableMapping[str, Any]) -> bytes:
    """Return the entry for an event; *fields* has its name as ``event``."""
    event = str(fields.get("event", ""))
    others = {name: value for name, value in fields.items() if name not in _OF_LINES and value not in (None, "")}
    return b"".join(_encoded(name, value) for name, value in _named(event, priority_of(event, level), others))


def _named(event: str, priority: Priority, fields: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the fields of the entry."""
    yield "MESSAGE", sentence(event, fields)
    yield "PRIORITY", str(int(priority))
    yield "SYSLOG_IDENTIFIER", IDENTIFIER
    yield "COLLECTOR_EVENT", event
    if event in KINDS:
        yield "MESSAGE_ID", KINDS[event].message_id
    is_crash = event.partition(".")[0] in CRASH_NOUNS and not fields.get("claimed")
    if is_crash:
        yield from _about_the_crash(event, fields)
    for name, value in fields.items():
        if name == "incident":
            yield "INCIDENT", _text(name, value)
        else:
            yield (OF_A_CRASH.get(name) if is_crash else None) or f"COLLECTOR_{name.upper()}", _text(name, value)


def _about_the_crash(event: str, fields: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is derived from the fields of a crash."""
    if "signal" in fields:
        yield "COREDUMP_SIGNAL_NAME", signal_name(fields["signal"])
    if "crash_at_s" in fields:
        yield "COREDUMP_TIMESTAMP", str(int(fields["crash_at_s"] * 1e6))
    if "unit" in fields:
        unit = _text("unit", fields["unit"])
        yield "UNIT", unit
        if event in TOLD_TO_THE_UNIT:
            yield "OBJECT_SYSTEMD_UNIT", unit


def _text(name: str, value: object) -> str:
    if not isinstance(value, str | int | float):
        value = json.dumps(value, default=str, ensure_ascii=False)  # msgspec refuses what no UTF-8 can have: a name can
    lines = str(value).split("\n") if name in _OWN_LINES else [str(value)]
    return "\n".join(printable(line, limit=VALUE_LENGTH) for line in lines)


def _encoded(name: str, value: str) -> bytes:
    """Return a field: with its length in front if it has several lines."""
    data = value.encode(errors="backslashreplace")[:VALUE_LENGTH]
    if b"\n" in data:
        return name.encode() + b"\n" + len(data).to_bytes(8, "little") + data + b"\n"
    return name.encode() + b"=" + data + b"\n"
