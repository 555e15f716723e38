"""The lines of the kernel's log around a crash, and the one that is about it."""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from collector.model.marker import Marker, MarkerKind
from collector.report.documents import Documents
from collector.report.story import LogLine
from collector.report.text import one_line, utc

AROUND = 20
"""Lines before the one that matters, and as many after it."""

CLOCK_TICKS_PER_S = 100
KERN = "kern"
"""The facility of the kernel's own lines; programs write theirs to the same log."""

_END = re.compile(r"Killed process|segfault|traps: |general protection")
KERNEL_FAULTS = frozenset(
    {"oops", "bug", "panic", "warning", "soft_lockup", "hard_lockup", "rcu_stall", "ubsan", "list_corruption"}
)
"""Events in which the kernel logs where it was itself."""

_PLACE = re.compile(r"(?:RIP: 0010:|pc : )([\w.]+\+0x[0-9a-f]+/0x[0-9a-f]+(?: \[\w+\])?)")
"""Of x86-64 in the kernel, 0033 being a program; of arm64."""

LEVELS = {name: number for number, name in enumerate(("emerg", "alert", "crit", "err", "warning", "notice", "info"))}


class KernelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Part of `host.kmsg.KmsgRecord`; a line that says that some were overwritten has none of it."""

    time_s: float = 0.0
    facility: str = ""
    level: str = ""
    message: str = ""


def kernel_lines(documents: Documents, marker: Marker) -> tuple[LogLine, ...]:
    """
    Return the lines around the one that matters, oldest first, or the last ones if none does.

    Their times are those of the marker's clock: wrong by a suspend between the line and the crash.
    """
    records = [record for record in documents.rows("dmesg", "dmesg.jsonl", KernelRecord) if record.message]
    at = _that_matters(records, marker)
    middle = len(records) if at is None else at + 1
    first = max(0, middle - 1 - AROUND)
    begin_s = marker.at_s - marker.noticed_ticks / CLOCK_TICKS_PER_S if marker.noticed_ticks is not None else None
    return tuple(
        LogLine(
            at=None if begin_s is None else utc(begin_s + record.time_s),
            text=one_line(record.message),
            who="kernel",
            priority=LEVELS.get(record.level),
            matters=number == at,
        )
        for number, record in enumerate(records[first : middle + AROUND], first)
    )


def kernel_place(lines: Sequence[LogLine]) -> str:
    """Return the kernel's function that a fault of its own was in, from what follows the line that matters."""
    said = [line.text for line in lines]
    begin = next((number for number, line in enumerate(lines) if line.matters), len(lines))
    return next((found[1] for text in said[begin:] if (found := _PLACE.match(text))), "")


def _that_matters(records: list[KernelRecord], marker: Marker) -> int | None:
    """Return the number of the marker's own line, else of the last that names its process."""
    if marker.kind is MarkerKind.KERNEL_LOG:
        for number in reversed(range(len(records))):
            if records[number].message.startswith(marker.reason[:500]) and marker.reason:
                return number
    pids = (marker.process.pid if marker.process else None, marker.thread)
    if not any(pids):
        return None
    any_of = "|".join(str(pid) for pid in pids if pid)
    named = re.compile(rf"\[(?:{any_of})\]|\b(?:[Pp]rocess|task|pid|PID)[ =:]+(?:{any_of})\b|\bPID: (?:{any_of})\b")
    found = [
        number for number, record in enumerate(records) if record.facility == KERN and named.search(record.message)
    ]
    return _best(records, found)


def _best(records: list[KernelRecord], found: list[int]) -> int | None:
    """Return the last of *found* that says how the process ended, else the last."""
    ends = [number for number in found if _END.search(records[number].message)]
    return next(reversed(ends or found), None)
