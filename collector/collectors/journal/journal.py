"""The last lines of the crashed process and of its unit in the systemd journal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import ClassVar

import msgspec

from collector.collectors.base import Context, about_nobody, names_nobody
from collector.collectors.journal.journal_query import JournalQuery, JournalWindow, queries, suppressed_unit
from collector.collectors.journal.journal_rows import JournalRow, JournalRows, is_suppression, text_lines, value_of
from collector.collectors.journal.journal_search import FoundEntry, JournalSearch, nearest, wait_for_journald
from collector.host.clock import boot_id, boot_s
from collector.host.files import Host
from collector.host.journal_file import JournalDamagedError
from collector.host.journal_files import DIRECTORIES, JournalFiles, open_journal
from collector.host.procfs import CLOCK_TICKS_PER_S
from collector.model.artifact import Artifact, Footprint, NotApplicable, SourceInfo, Truncated
from collector.model.constrained import Count, Window
from collector.model.errors import StepError
from collector.model.marker import Marker
from collector.model.pressure import StepClass
from collector.model.text import escape_name, joined, jsonl
from collector.model.units import Bytes, Seconds, counted

AFTER_LINES = 50
"""Lines after the crash: systemd's about the end, what journald received late, not all of the next start's."""

FRESH_S = 1.0
"""How long after a crash journald may not have written everything yet."""

MARGIN_S = 1.0
"""How long before the deadline the search ends: what was found must still be written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Journal:
    """
    Copy what the crashed process, its unit, and systemd about them said last, from the files of the journal.

    Args:
        lines: Maximum lines of the process, and as many of its unit, before the crash.
        since: How far back from the crash.
        max_bytes: Maximum bytes of all lines with their fields; those nearest to the crash are kept.
    """

    name: ClassVar[str] = "journal"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.CACHED, peak_bytes=8 << 20, timeout_s=10.0)
    lines: Count = 200
    since: Window = Seconds(600.0)
    max_bytes: Bytes = Bytes(1 << 20)

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        """
        Yield ``journal.jsonl`` and ``journal.txt``.

        Raises:
            StepError: If nothing of the journal may be read.
            Truncated: At the end, if lines are missing, or it is not known whose lines are wanted.
            NotApplicable: If there is no journal, the marker is about nobody, or nobody said anything.
        """
        window = _window(ctx, self.since)
        wanted = queries(ctx.marker, window)
        if not wanted:
            _nobody(ctx.marker)
        if window.is_fresh:
            with ExitStack() as stack:
                found = _opened(ctx.host, stack, window)
                if found.seen:  # even if nobody has said anything for long: the last words may be the first line since
                    wait_for_journald(JournalSearch(found.files, window), wanted)
        rows: list[JournalRow] = []
        with ExitStack() as stack:
            found = _opened(ctx.host, stack, window)
            _check_there_is_a_journal(found)
            search = JournalSearch(found.files, window, in_time=lambda: ctx.remaining_s() > MARGIN_S)
            entries = self._search(search, wanted, window.crash_us)
            missing = self._read(entries, JournalRows(ctx.redaction), suppressed_unit(ctx.marker), rows)
        missing += [*search.problems, *found.unread]
        missing += [f"{counted(found.refused, 'file')} may not be read"] if found.refused else []
        if rows:
            source = SourceInfo(path=" ".join(dict.fromkeys(one.file.name for one in entries)))
            yield Artifact(path=PurePosixPath("journal.jsonl"), body=jsonl(rows), source=source, media="jsonl")
            lines = joined(text_lines(rows, window.crash_us / 1e6))
            yield Artifact(path=PurePosixPath("journal.txt"), body=lines, source=source)
        if missing:
            raise Truncated("; ".join(missing[:3]) + (" …" if len(missing) > 3 else ""))
        if not rows:
            whose = " or ".join(query.whose for query in wanted if query.whose)
            raise NotApplicable(f"the journal has no line of {whose} in that time")

    def _search(self, search: JournalSearch, wanted: list[JournalQuery], crash_us: int) -> list[FoundEntry]:
        """Return what is wanted, nearest to the crash first."""
        entries = [one for query in wanted for one in search.before(query, self.lines)]
        for query in wanted:
            entries += search.after(query, AFTER_LINES if query.until_us is None else self.lines)
        return nearest(entries, crash_us)

    def _read(self, entries: list[FoundEntry], reader: JournalRows, unit: str, rows: list[JournalRow]) -> list[str]:
        """Add the entries to *rows*, oldest first; return what is missing."""
        missing: dict[str, None] = {}
        kept: list[tuple[tuple[int, int], JournalRow]] = []
        left = int(self.max_bytes)
        for number, one in enumerate(entries):
            try:
                row = reader.row(one)
            except JournalDamagedError as exc:
                missing[f"{one.file.name}: {exc}"] = None
                continue
            if is_suppression(row):
                if not value_of(row, "MESSAGE").endswith(f" messages from {escape_name(unit)}"):
                    continue
                missing[f"journald: {value_of(row, 'MESSAGE')}"] = None
            left -= len(msgspec.json.encode(row))
            if left < 0:
                missing[f"max_bytes: {len(entries) - number} of {len(entries)} lines were left out"] = None
                break
            kept.append((one.at, row))
        rows += [row for _, row in sorted(kept, key=lambda pair: pair[0])]
        return list(missing)


def _window(ctx: Context, since_s: float) -> JournalWindow:
    try:
        boot = bytes.fromhex(boot_id(ctx.host).replace("-", ""))
    except (OSError, ValueError) as exc:
        raise StepError(f"it is not known which boot this is: {exc}") from exc
    now_s, ticks = boot_s(), ctx.marker.noticed_ticks
    suspended_s = now_s - time.monotonic()
    noticed_s = now_s if ticks is None else ticks / CLOCK_TICKS_PER_S  # a run by hand is about now
    crash_us = int((noticed_s - suspended_s) * 1e6)
    return JournalWindow(
        boot=boot,
        since_us=crash_us - int(since_s * 1e6),
        crash_us=crash_us,
        suspended_us=int(suspended_s * 1e6),
        is_fresh=ticks is not None and now_s - noticed_s < FRESH_S,
    )


def _opened(host: Host, stack: ExitStack, window: JournalWindow) -> JournalFiles:
    return open_journal(host, stack, boot=window.boot, since_us=window.since_us)


def _nobody(marker: Marker) -> None:
    if names_nobody(marker):
        raise NotApplicable(about_nobody(marker))
    if marker.core is not None or marker.thread is not None or marker.inner_pid is not None:
        raise NotApplicable("neither its process nor its unit is known for certain: no lines are known to be its own")
    if marker.process is not None:
        unsure = f"process {marker.process.pid} was not seen alive, and its unit is not known"
        raise Truncated(f"{unsure}: no lines are known to be its own")
    raise Truncated("the marker names neither a process nor a unit")


def _check_there_is_a_journal(found: JournalFiles) -> None:
    if found.files:
        return
    if found.refused:
        raise StepError("the journal may not be read", hint="run as root, or in the group systemd-journal")
    if found.unread:
        raise StepError(f"the journal cannot be read: {found.unread[0]}")
    if found.seen:
        raise NotApplicable("the journal has nothing of this boot and that time: does journald run?")
    raise NotApplicable(f"this machine keeps no journal: there is none in {' or '.join(DIRECTORIES)}")
