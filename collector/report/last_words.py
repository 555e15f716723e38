"""What the crashed process and its unit said last, from the ``journal`` step, and the line that matters."""

from __future__ import annotations

import re

import msgspec

from collector.model.marker import Marker
from collector.model.text import printable
from collector.report.documents import Documents
from collector.report.story import LogLine
from collector.report.text import one_line, utc

SHOWN = 60
"""Lines of a story, the last ones before the crash and those after it."""

ERROR = 3
LOOKED_AT = 20
"""Of how many last lines of the process one that sounds like an error is preferred to the very last one."""

# journald gives all that a program prints the same priority.
_SOUNDS_BAD = re.compile(
    r"\b(?:ERROR|FATAL|CRITICAL|CRIT|PANIC|EMERG|ALERT|[Ff]atal|[Pp]anic(?:ked)?|[Aa]ssert(?:ion)?|[Aa]bort(?:ed|ing)?"
    r"|terminate called|[A-Za-z.]*(?:Error|Exception):)|^error\b|\[error\]",
)


class JournalFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Part of `collectors.journal.journal_rows.JournalRow`."""

    wall_s: float = 0.0
    fields: dict[str, str | list[str]] = {}

    def value(self, name: str) -> str:
        found = self.fields.get(name, "")
        return found if isinstance(found, str) else (found or [""])[0]


def last_words(documents: Documents, marker: Marker) -> tuple[LogLine, ...]:
    """Return the last lines, oldest first."""
    rows = documents.rows("journal", "journal.jsonl", JournalFacts)
    at = _that_matters(rows, marker)
    first = max(0, (len(rows) if at is None else at + 1) - SHOWN // 2)
    return tuple(_line(row, matters=number == at) for number, row in enumerate(rows[first : first + SHOWN], first))


def _line(row: JournalFacts, *, matters: bool) -> LogLine:
    priority = row.value("PRIORITY")
    who = row.value("SYSLOG_IDENTIFIER") or row.value("_COMM")
    return LogLine(
        at=utc(row.wall_s),
        text=one_line(row.value("MESSAGE")),
        who=printable(who, limit=200),
        priority=int(priority) if priority in map(str, range(8)) else None,
        matters=matters,
    )


def _that_matters(rows: list[JournalFacts], marker: Marker) -> int | None:
    """
    Return the number of the last line of the process, preferably one of an error, else of its unit.

    What systemd says matters only if there is no signal, since it says no more than that.
    """
    pid = str(marker.process.pid) if marker.process else ""
    said = [number for number, row in enumerate(rows) if row.value("MESSAGE").strip()]
    own = [number for number in said if pid and rows[number].value("_PID") == pid]
    unit = [number for number in said if rows[number].value("_PID") != "1" and _is_its_own(rows[number])]
    before = [number for number in unit if rows[number].wall_s <= marker.at_s]  # not what the next start says
    for numbers in (own, before, unit, said if marker.signal is None else []):
        if numbers:
            return _worst(rows, numbers)
    return None


def _is_its_own(row: JournalFacts) -> bool:
    """Return whether a program of the unit said it: what root's daemons say about it, as this one does, is theirs."""
    return row.value("_TRANSPORT") not in {"kernel", "driver", "audit"} and not row.value("OBJECT_SYSTEMD_UNIT")


def _worst(rows: list[JournalFacts], numbers: list[int]) -> int:
    last = numbers[-LOOKED_AT:]
    errors = [number for number in last if rows[number].value("PRIORITY") in map(str, range(ERROR + 1))]
    bad = [number for number in last if _SOUNDS_BAD.search(rows[number].value("MESSAGE"))]
    return (errors or bad or last)[-1]
