"""The entries of the journal as rows: escaped, bounded, and with secrets hidden."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from collector.collectors.journal.journal_query import SUPPRESSED
from collector.collectors.journal.journal_search import FoundEntry
from collector.host.journal_file import JournalDamagedError, JournalFile
from collector.model.redaction import Redaction
from collector.model.text import escape, escape_lines

FIELD_BYTES = 16_384
"""Of one field; a stack trace of 100 frames in a message takes 8 KiB."""
ENTRY_BYTES = 65_536
"""Of all fields of one entry: one alone must not use up what all lines may take."""
MAX_FIELDS = 128
"""Of one entry; journald itself adds about 25, systemd-coredump 40."""

# What systemd-coredump copies of the dead process, its environment included; `core` and `process` have that themselves.
LEFT_OUT = (b"COREDUMP_ENVIRON", b"COREDUMP_OPEN_FDS", b"COREDUMP_PROC_", b"COREDUMP_PACKAGE_JSON")

LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")

JournalValue = str | list[str]


class JournalRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    An entry.

    *time_s* is seconds since boot on CLOCK_MONOTONIC, *wall_s* since the epoch, both when journald received it.
    *fields* are those of the journal by their names, a list where one is there several times. *cut* names fields of
    which only the beginning is kept, and says how many fields are left out.
    """

    time_s: float
    wall_s: float
    fields: dict[str, JournalValue]
    cut: tuple[str, ...] = ()


class JournalRows:
    """Makes rows of entries. Most fields are shared by many entries: each is read once."""

    def __init__(self, redaction: Redaction) -> None:
        self._redaction = redaction
        self._shared: dict[tuple[str, int], tuple[str, str, bool] | None] = {}

    def row(self, found: FoundEntry) -> JournalRow:
        """
        Return an entry as a row.

        Raises:
            JournalDamagedError: If one of its fields cannot be read.
        """
        fields: dict[str, JournalValue] = {}
        cut: list[str] = []
        items, left = found.entry.items, ENTRY_BYTES
        for offset in items[:MAX_FIELDS]:
            if (field := self._field(found.file, offset)) is None:
                continue
            name, value, is_cut = field
            left -= len(value)
            if left < 0:
                cut.append(f"{name} is left out")
                continue
            before = fields.get(name)
            fields[name] = value if before is None else [*([before] if isinstance(before, str) else before), value]
            cut += [name] if is_cut else []
        if len(items) > MAX_FIELDS:
            cut.append(f"{len(items) - MAX_FIELDS} fields")
        entry = found.entry
        return JournalRow(time_s=entry.monotonic_us / 1e6, wall_s=entry.wall_us / 1e6, fields=fields, cut=tuple(cut))

    def _field(self, file: JournalFile, offset: int) -> tuple[str, str, bool] | None:
        key = (file.name, offset)
        if key not in self._shared:
            self._shared[key] = self._read(file, offset)
        return self._shared[key]

    def _read(self, file: JournalFile, offset: int) -> tuple[str, str, bool] | None:
        payload = file.field(offset, FIELD_BYTES + 1)
        name, equals, value = payload[:FIELD_BYTES].partition(b"=")
        if not equals or b"\0" in name:
            raise JournalDamagedError(f"there is no field at {offset}")
        if name == b"COREDUMP" or name.startswith(LEFT_OUT):
            return None
        is_cut = len(payload) > FIELD_BYTES
        return escape(name), escape_lines(self._shown(name, value, is_cut)), is_cut

    def _shown(self, name: bytes, value: bytes, is_cut: bool) -> bytes:
        """Hide secrets; what journald or systemd says is none by its name, which a program's own field may be."""
        if not name.startswith(b"_") and b"\0" not in value and not is_cut:
            (entry,) = self._redaction.environ((name + b"=" + value + b"\0",))
            return entry[len(name) + 1 : -1]
        return self._redaction.text(value, is_cut=is_cut)


def is_suppression(row: JournalRow) -> bool:
    """Return whether it is journald's own message that it did not take all lines of somebody."""
    is_driver = value_of(row, "_TRANSPORT") == "driver"
    return is_driver and f"MESSAGE_ID={value_of(row, 'MESSAGE_ID')}".encode() == SUPPRESSED


def text_lines(rows: list[JournalRow], crash_s: float) -> Iterator[bytes]:
    """Yield rows as text, with a line where the crash was noticed; further lines of a message are indented."""
    noticed = False
    for row in rows:
        if row.time_s > crash_s and not noticed:
            noticed = True
            yield f"-- here the crash was noticed, {crash_s:.6f} s after boot --\n".encode()
        yield _line(row)


def _line(row: JournalRow) -> bytes:
    wall = datetime.fromtimestamp(min(row.wall_s, 1e11), UTC).strftime("%Y-%m-%d %H:%M:%S.%f")
    who = value_of(row, "SYSLOG_IDENTIFIER") or value_of(row, "_COMM") or "unknown"
    pid = value_of(row, "SYSLOG_PID") or value_of(row, "_PID")
    priority = value_of(row, "PRIORITY")
    level = LEVELS[int(priority)] if priority in map(str, range(8)) else "-"
    message = value_of(row, "MESSAGE").rstrip("\n").replace("\n", "\n    ")
    sender = f"{_one_line(who)}[{_one_line(pid)}]" if pid else _one_line(who)
    return f"[{row.time_s:12.6f}] {wall} {sender} {level}: {message}\n".encode()


def _one_line(text: str) -> str:
    return text.replace("\n", "\\x0a").replace("\t", "\\x09")


def value_of(row: JournalRow, name: str) -> str:
    """Return the first value of a field; empty if the entry does not have it."""
    value = row.fields.get(name, "")
    return value if isinstance(value, str) else value[0]
