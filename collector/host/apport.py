"""
What an Apport report says of a crash, before the core that it contains.

A report is a sequence of ``Key: value``; further lines of a value begin with a blank. Text comes first, sorted by key,
then what is binary, as base64. Whoever may write to the directory may write a report: nothing in it is trusted, and of
a key that is given twice neither value is used.

Source: problem_report.py, apport/report.py and data/apport in Apport.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from collector.host.elfcore import MappedFile
from collector.host.files import PIECE
from collector.host.maps import parse_maps
from collector.model.text import parse_number

# ProcMaps of 65,530 mappings, as many as vm.max_map_count allows, takes 7 MiB.
MAX_HEAD_BYTES = 8 << 20
# ProcStatus and Signal come after ProcMaps: enough for 10,000 mappings, which take 6 ms; 1,000 take 0.6 ms.
MAX_NOTICED_BYTES = 1 << 20
MAX_KEYS = 1000  # more than any report has
MAX_VALUE_BYTES = 65_536
MAGIC = b"ProblemType:"
PROBLEMS = frozenset({b"Crash", b"Hang"})  # others are about a package, the kernel, or Apport itself
_KEY = re.compile(rb"^([A-Za-z0-9._-]{1,64}):", re.MULTILINE)
_CORE = re.compile(rb"^CoreDump:[ \t]{0,8}base64[ \t\r]{0,8}\n", re.MULTILINE)
_CORE_BYTES = 64  # at least as long as what _CORE matches
_END = re.compile(rb"\n(?! )")
_CONTINUED = re.compile(rb"^ (.*)\n", re.MULTILINE)  # the last line of a report that was cut off is not whole
_DATE = re.compile(r"\w{3} (\w{3}) {1,2}(\d{1,2}) (\d\d):(\d\d):(\d\d) (\d{4})", re.ASCII)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ARGUMENT = re.compile(rb"(?:\\.|[^ \\])+", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)")


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashReport:
    """
    The text of a report.

    *core_at* is the offset in the file at which the core's base64 begins; ``None`` if no core was found within the part
    that was read. *spans* tells where in *head* each value is, in the order of the file.
    """

    head: bytearray
    spans: dict[bytes, tuple[int, int] | None]
    core_at: int | None

    def value(self, key: bytes) -> bytes | None:
        """Return the first 64 KiB of a value, its lines without their blanks; ``None`` if it is absent or ambiguous."""
        span = self.spans.get(key)
        if span is None:
            return None
        text = bytes(self.head[span[0] : min(span[1], span[0] + MAX_VALUE_BYTES)])
        return _END.split(text, 1)[0].strip().replace(b"\n ", b"\n")

    def text(self, key: bytes) -> str | None:
        """Return a value as `os` functions return names; ``None`` also if it is empty."""
        return os.fsdecode(self.value(key) or b"") or None

    def number(self, key: bytes) -> int | None:
        return parse_number(self.text(key))

    @property
    def at_s(self) -> int | None:
        """When Apport was started, in seconds since the epoch; it writes the local time, as ``asctime`` does."""
        found = _DATE.fullmatch(self.text(b"Date") or "")
        if found is None or found[1] not in _MONTHS:
            return None
        day, hour, minute, second, year = map(int, found.groups()[1:])
        try:
            return int(time.mktime((year, _MONTHS.index(found[1]) + 1, day, hour, minute, second, 0, 0, -1)))
        except (OverflowError, ValueError):
            return None

    @property
    def exe(self) -> str | None:
        """What ``/proc/PID/exe`` was; of a script, ``ExecutablePath`` is the script."""
        return self.text(b"InterpreterPath") or self.text(b"ExecutablePath")

    @property
    def status(self) -> dict[str, str]:
        """``/proc/PID/status`` as Apport read it: on the host, with the host's numbers."""
        lines = (self.value(b"ProcStatus") or b"").split(b"\n")
        pairs = (os.fsdecode(line).partition(":\t") for line in lines)
        return {key: value for key, tab, value in pairs if tab}

    @property
    def pid(self) -> int | None:
        return parse_number(self.status.get("Pid"))

    @property
    def uid(self) -> int | None:
        """The real uid."""
        return parse_number(self.status.get("Uid", "").partition("\t")[0])

    @property
    def comm(self) -> str | None:
        """The name, in which the kernel escapes line breaks and backslashes."""
        name = _ESCAPED.sub(lambda found: "\n" if found[1] == "n" else found[1], self.status.get("Name", ""))
        return name or None

    @property
    def arguments(self) -> list[bytes]:
        """The command line, which Apport joins with blanks after it escaped those within an argument."""
        found = _ARGUMENT.findall(self.value(b"ProcCmdline") or b"")
        return [re.sub(rb"(?s)\\(.)", rb"\1", argument) for argument in found]

    @property
    def ends_within_maps(self) -> bool:
        """Whether the list of mappings is not whole: ProcStatus comes behind it."""
        return self.core_at is None and next(reversed(self.spans), None) == b"ProcMaps"

    def mapped_files(self) -> Iterator[MappedFile]:
        """Yield the files in ``ProcMaps``, which is ``Error: ...`` if Apport could not read it."""
        span = self.spans.get(b"ProcMaps")
        if span is not None:
            yield from parse_maps(bytes(found[1]) for found in _CONTINUED.finditer(self.head, *span))


def read_report(fd: int, *, limit: int = MAX_HEAD_BYTES) -> CrashReport | None:
    """Return what stands before the core, at most *limit* bytes; ``None`` if it is not a report about a process."""
    if os.pread(fd, len(MAGIC), 0) != MAGIC:
        return None
    head, core_at = _read_head(fd, limit)
    spans: dict[bytes, tuple[int, int] | None] = {}
    keys = list(islice(_KEY.finditer(head), MAX_KEYS))
    ends = [key.start() for key in keys[1:]] + [len(head)]
    for key, end in zip(keys, ends, strict=True):
        name = bytes(key[1])
        spans[name] = None if name in spans else (key.end(), end)
    report = CrashReport(head=head, spans=spans, core_at=core_at)
    return report if report.value(b"ProblemType") in PROBLEMS else None


def _read_head(fd: int, limit: int) -> tuple[bytearray, int | None]:
    """Return the bytes before the core, and where its base64 begins."""
    head = bytearray()
    while len(head) < limit and (piece := os.pread(fd, min(PIECE, limit - len(head)), len(head))):
        searched = max(len(head) - _CORE_BYTES, 0)
        head += piece
        if (found := _CORE.search(head, searched)) is not None:
            core_at = found.end()
            del head[found.start() :]
            return head, core_at
    return head, None
