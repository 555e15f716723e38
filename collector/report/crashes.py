"""What the ledger accounts for, for people: one line a crash, and one for all its repeats."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from collector.archive.ledger_reader import CountedRow, LedgerRow
from collector.model.case import Fate
from collector.report.signatures import UNKNOWN_END, how_it_ended

NEIGHBOURHOOD = 1000
"""Markers after which a repeat begins a line of its own: two crash loops of twenty programs a day apart are two."""


class CrashLine(msgspec.Struct, kw_only=True):
    """
    A marker, with those that joined its case, or *count* repeats of it with the same fate.

    *first_s* and *last_s* are seconds since the epoch, labels by the wall clock. *triggers* are all that saw it.
    *has_row* is false for markers beyond their owner's share, of which only minute, owner, trigger and fate are known.
    """

    first_s: float
    last_s: float
    count: int
    triggers: list[str]
    fate: str
    reason: str
    owner: str
    incident: str | None = None
    comm: str | None = None
    pid: int | None = None
    exe: str | None = None
    uid: int | None = None
    unit: str | None = None
    ended_by: str = ""
    has_row: bool = True


def folded(rows: Iterable[LedgerRow]) -> list[CrashLine]:
    """Return *rows* as lines, each at the place of its first marker."""
    lines: list[CrashLine] = []
    cases: dict[int, CrashLine] = {}
    newest: dict[tuple[object, ...], tuple[int, CrashLine]] = {}
    for row in rows:
        if row.fate == Fate.JOINED and (line := cases.get(row.case)) is not None:
            if row.trigger not in line.triggers:
                line.triggers.append(row.trigger)
            if line.incident is not None and line.ended_by == UNKNOWN_END:  # its dump is announced before the signal
                line.ended_by = line_of(row).ended_by
            continue
        said = row.said
        key = (row.executable, said.signal, said.exit_status, row.fate, row.reason, row.trigger, row.incident)
        last, known = newest.get(key, (0, None))
        if known is not None and row.id - last <= NEIGHBOURHOOD:
            line = known
            line.count += 1
            line.last_s = row.at_s
            line.pid = None if said.process is None or line.pid != said.process.pid else line.pid
        else:
            line = line_of(row)
            lines.append(line)
        newest[key] = row.id, line
        cases[row.id] = line
    return lines


def line_of(row: LedgerRow) -> CrashLine:
    """Return a marker as a line of its own."""
    said = row.said
    return CrashLine(
        first_s=row.at_s,
        last_s=row.at_s,
        count=1,
        triggers=[row.trigger],
        fate=row.fate,
        reason=row.reason,
        owner=row.owner,
        incident=row.incident,
        comm=said.comm,
        pid=said.process.pid if said.process else None,
        exe=said.exe,
        uid=said.uid,
        unit=said.unit,
        ended_by=how_it_ended(said.signal, said.exit_status, said.attributes.event),
    )


def counted_lines(rows: Iterable[CountedRow], *, fold: bool) -> list[CrashLine]:
    """Return markers without a row as lines: one a minute, or if *fold*, one for all of a kind."""
    lines: dict[tuple[object, ...], CrashLine] = {}
    for row in sorted(rows, key=lambda row: row.minute):
        key = (row.owner, row.trigger, row.fate, row.reason, None if fold else row.minute)
        line = lines.get(key)
        if line is None:
            lines[key] = CrashLine(
                first_s=row.minute * 60.0, last_s=row.minute * 60.0, count=row.count, triggers=[row.trigger],
                fate=row.fate, reason=row.reason, owner=row.owner, ended_by=UNKNOWN_END, has_row=False,
            )  # fmt: skip
        else:
            line.count += row.count
            line.last_s = row.minute * 60.0
    return list(lines.values())
