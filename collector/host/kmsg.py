"""The kernel log from ``/dev/kmsg``, record by record. Source: Documentation/ABI/testing/dev-kmsg."""

from __future__ import annotations

import errno
import os
import re
from collections import deque
from collections.abc import Iterator
from itertools import islice

import msgspec

from collector.host.files import READ_FLAGS, Host
from collector.model.text import escape

PATH = "/dev/kmsg"
# The kernel refuses to read a record into a buffer that is too short: PRINTKRB_RECORD_MAX is 1 KiB, PRINTK_MESSAGE_MAX
# 2 KiB since 6.5, CONSOLE_EXT_LOG_MAX 8 KiB before.
RECORD_BYTES = 8192
# A kernel that logs faster than it can be read must not occupy the reader indefinitely.
MAX_PASSED = 2_000_000
LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
FACILITIES = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
    "res0", "res1", "res2", "res3", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
)  # fmt: skip
_NUMBER = re.compile(rb"[0-9]{1,19}")  # at most 64 bits
_ESCAPE = re.compile(rb"\\x([0-9a-f]{2})")


class KmsgRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One record.

    *time_s* is seconds since boot on the kernel's own clock, which stops during suspend. *facility* is ``kern`` only
    for the kernel's own messages, not for what is written to ``/dev/kmsg``. *message* and *details* are escaped.
    """

    seq: int
    time_s: float
    facility: str
    level: str
    message: str
    flags: str = ""
    caller: str = ""
    details: dict[str, str] = {}


def parse_record(raw: bytes) -> KmsgRecord:
    """Parse one record as read(2) returns it; raise `ValueError` if it is not a record."""
    head, semicolon, rest = raw.partition(b";")
    fields = head.split(b",")
    if not semicolon or len(fields) < 4 or not all(_NUMBER.fullmatch(field) for field in fields[:3]):
        raise ValueError("not a record of /dev/kmsg")
    priority = int(fields[0])
    message, *lines = rest.split(b"\n")
    pairs = (line[1:].partition(b"=") for line in lines if line.startswith(b" "))
    facility = priority >> 3
    return KmsgRecord(
        seq=int(fields[1]),
        time_s=int(fields[2]) / 1e6,
        facility=FACILITIES[facility] if facility < len(FACILITIES) else str(facility),
        level=LEVELS[priority & 7],
        message=_text(message),
        flags=fields[3].decode("ascii", "replace"),
        caller=next((field[7:].decode("ascii", "replace") for field in fields[4:] if field.startswith(b"caller=")), ""),
        details={_text(key): _text(value) for key, _, value in pairs},
    )


def _text(raw: bytes) -> str:
    """Undo the kernel's escapes (``\\x0a``) and apply ours."""
    return escape(_ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), raw))


class Kmsg:
    """
    An open ``/dev/kmsg``, read from the oldest record or, *at_end*, from after the newest; reading never blocks.

    Raises:
        OSError: ``EPERM`` if ``kernel.dmesg_restrict`` is set and the reader lacks CAP_SYSLOG.
    """

    def __init__(self, host: Host, *, at_end: bool = False) -> None:
        self._fd = host.open(PATH, READ_FLAGS | os.O_NONBLOCK)
        self._next_seq: int | None = None
        self.lost = 0
        """Number of records overwritten before they could be read."""
        if at_end:
            os.lseek(self._fd, 0, os.SEEK_END)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def records(self) -> Iterator[KmsgRecord]:
        """Yield the records available now; call again for later ones."""
        for raw in self._raw():
            record = parse_record(raw)
            if self._next_seq is not None:
                self.lost += record.seq - self._next_seq
            self._next_seq = record.seq + 1
            yield record

    def newest_seq(self) -> int | None:
        """Skip the records available now; return the number of the newest, ``None`` if there is none."""
        newest = deque(islice(self._raw(), MAX_PASSED), maxlen=1)
        return parse_record(newest[0]).seq if newest else None

    def _raw(self) -> Iterator[bytes]:
        while True:
            try:
                raw = os.read(self._fd, RECORD_BYTES)
            except OSError as exc:
                if exc.errno == errno.EPIPE:  # overwritten; the next read starts at the oldest one left
                    continue
                if exc.errno == errno.EAGAIN:
                    return
                raise
            if not raw:
                return
            yield raw
