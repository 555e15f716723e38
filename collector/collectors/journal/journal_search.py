"""Finding the entries of a query in the files of the journal: the last before the crash, and the first after it."""

from __future__ import annotations

import contextlib
import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from collector.collectors.journal.journal_query import FieldMatch, JournalQuery, JournalWindow
from collector.host.journal_file import EntryOffsets, JournalDamagedError, JournalEntry, JournalFile

MAX_SCANNED = 20_000
"""Most entries that are looked at, 30 us each: somebody may fill the journal with claims about another one's unit."""

QUIET_S, POLL_S, LONGEST_WAIT_S = 0.1, 0.025, 0.5


class FoundEntry(NamedTuple):
    """An entry, and where it is."""

    file: JournalFile
    offset: int
    entry: JournalEntry

    @property
    def key(self) -> tuple[str, int]:
        """Return what tells it from others."""
        return self.file.name, self.offset

    @property
    def at(self) -> tuple[int, int]:
        """Return its place in time."""
        return self.entry.monotonic_us, self.entry.seqnum


class JournalSearch:
    """
    Searches *files* for entries of *window*, as long as *in_time* says so.

    *problems* says what could not be looked at.
    """

    def __init__(
        self, files: Sequence[JournalFile], window: JournalWindow, *, in_time: Callable[[], bool] = lambda: True
    ) -> None:
        self._files = files
        self._window = window
        self._in_time = in_time
        self._left = MAX_SCANNED
        self.problems: dict[str, None] = {}

    def before(self, query: JournalQuery, count: int) -> list[FoundEntry]:
        """Return the last *count* entries up to the crash, newest first."""
        streams = [self._stream(file, match, query, back=True) for file in self._files for match in query.matches]
        return self._first(heapq.merge(*streams, key=lambda found: found.at, reverse=True), count)

    def after(self, query: JournalQuery, count: int) -> list[FoundEntry]:
        """Return the first *count* entries after the crash, oldest first."""
        streams = [self._stream(file, match, query, back=False) for file in self._files for match in query.later]
        return self._first(heapq.merge(*streams, key=lambda found: found.at), count)

    def total(self, query: JournalQuery) -> int:
        """Return a number that grows with each entry of *query*; others may count, too."""
        total = 0
        for file in self._files:
            with contextlib.suppress(JournalDamagedError):
                total += sum(data.total for match in query.matches if (data := file.find(match.field)))
        return total

    def _first(self, found: Iterable[FoundEntry], count: int) -> list[FoundEntry]:
        """Return the first *count*, each once though it meets several matches."""
        chosen: dict[tuple[str, int], FoundEntry] = {}
        for one in found:
            if len(chosen) == count:
                break
            chosen[one.key] = one
        return list(chosen.values())

    def _stream(self, file: JournalFile, match: FieldMatch, query: JournalQuery, *, back: bool) -> Iterator[FoundEntry]:
        try:
            data = file.find(match.field)
            also = [file.find(payload) for payload in match.also]
            if data is None or None in also:
                return
            needed = {one.offset for one in also if one is not None}
            entries = file.entries(data)
            first = entries.first_after(self._window.boot, self._window.crash_us)
            indices = range(first - 1, -1, -1) if back else range(first, entries.count)
            for found in self._entries(file, entries, indices):
                if found.entry.boot != self._window.boot or found.entry.monotonic_us < query.since_us:
                    return
                if not back and query.until_us is not None and found.entry.monotonic_us > query.until_us:
                    return
                if needed <= set(found.entry.items):
                    yield found
        except JournalDamagedError as exc:
            self.problems[f"{file.name}: {exc}"] = None

    def _entries(self, file: JournalFile, entries: EntryOffsets, indices: Iterable[int]) -> Iterator[FoundEntry]:
        for index in indices:
            if self._left <= 0:
                self.problems[f"more than {MAX_SCANNED} entries would have to be looked at"] = None
                return
            if not self._in_time():
                self.problems["the step's time was used up"] = None
                return
            self._left -= 1
            yield FoundEntry(file, *entries.entry(index))


def wait_for_journald(search: JournalSearch, wanted: Sequence[JournalQuery]) -> None:
    """
    Wait until no entry of *wanted* has come for `QUIET_S`, at most for `LONGEST_WAIT_S`.

    Last words are in the file 0.4 to 5 ms after the process has ended; 4 ms to 1.6 s while others write 5,000 lines at
    a time. journald is not asked: it may hang.
    """
    begun_s = changed_s = time.monotonic()
    total = -1
    while (now_s := time.monotonic()) < min(changed_s + QUIET_S, begun_s + LONGEST_WAIT_S):
        if (found := sum(map(search.total, wanted))) != total:
            total, changed_s = found, now_s
        time.sleep(POLL_S)


def nearest(found: Iterable[FoundEntry], crash_us: int) -> list[FoundEntry]:
    """Return entries without repetition, those nearest to the crash first."""
    each = {one.key: one for one in found}
    return sorted(each.values(), key=lambda one: abs(one.entry.monotonic_us - crash_us))
