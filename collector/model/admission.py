"""
Admission: which marker opens an incident, which joins one, which waits, and which is only recorded.

Pure: times are arguments (seconds on one monotonic clock), nothing is read or written. Every table is
bounded, and a flood spends only its own budget:

- An *executable* is its name **and its uid**: files named ``core.engine`` that user ``nobody`` creates spend
  the budget of ``nobody``, not the engine's.
- Two markers with different uids are never one crash, so that a planted file cannot swallow a real core.
- Beyond a budget the newest case of each executable is held, and collected once the window has room again:
  of every storm, the first and the newest are kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from collector.model.bounded import put_newest
from collector.model.budgets import Budgets, Spent, StormSettings
from collector.model.case import Case, Fate, awaits_core, executable, merge
from collector.model.marker import Marker, MarkerKind

MAX_RECENT = 512
# Incidents under way: the light steps of each run immediately, then all but one wait for their turn to copy.
MAX_RUNNING = 8
MAX_HELD = 64
SETTLE_S = 0.5
"""How long a case that only a core will complete waits for it: most dumps take less, and a longer one still holds its
process, whose ``/proc/PID`` can be read."""

SAME_CRASH_S = 30.0
"""Markers of one PID are one crash within this time, where no start time tells."""

# A core of 100 GB written at 100 MB/s arrives this long after the kernel announced it.
LONGEST_DUMP_S = 1000.0


class OwnProcesses(msgspec.Struct, frozen=True, kw_only=True):
    """The collector's own *pids*, past ones included, and *units*: their crashes never open an incident."""

    pids: frozenset[int] = frozenset()
    units: frozenset[str] = frozenset()

    def is_about(self, marker: Marker) -> str | None:
        """Return why *marker* is about the collector itself; ``None`` if it is not."""
        if marker.process is not None and marker.process.pid in self.pids:
            return f"process {marker.process.pid} is the collector's own"
        parent = marker.attributes.get("parent") if marker.kind is MarkerKind.EXIT else None
        if parent is not None and parent in {str(pid) for pid in self.pids}:
            return f"a child of process {parent}, which is the collector's own"
        if marker.unit in self.units:
            return f"{marker.unit} is the collector's own"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ruling:
    """
    The decision about a marker.

    *case* is the case that it opened or joined. *displaced* are the numbers of held or queued cases that are
    suppressed now, because this one is newer.
    """

    fate: Fate
    reason: str = ""
    case: Case | None = None
    displaced: tuple[int, ...] = ()


class Admission:
    """The rules, and the bounded tables that they need."""

    def __init__(self, settings: StormSettings, own: OwnProcesses | None = None) -> None:
        """Begin with nothing queued and nothing spent; *own* may be replaced at any time."""
        self.own = own or OwnProcesses()
        self._settings = settings
        self._budgets = Budgets(settings)
        self._queue: deque[Case] = deque()
        self._held: dict[str, Case] = {}
        self._running: list[Case] = []
        self._by_pid: dict[int, Case] = {}
        self._by_executable: dict[str, Case] = {}

    @property
    def queued(self) -> int:
        """The number of cases that wait for their turn."""
        return len(self._queue)

    @property
    def held(self) -> int:
        """The number of cases that wait for a budget."""
        return len(self._held)

    @property
    def idle(self) -> bool:
        return not self._running and not self._queue

    def configure(self, settings: StormSettings) -> None:
        """Apply new settings from now on; what is queued, held or spent does not change."""
        self._settings = self._budgets.settings = settings

    def restore(self, spent: Iterable[Spent]) -> None:
        """Restore what was spent before a restart, oldest first."""
        self._budgets.restore(spent)

    def offer(self, number: int, marker: Marker, *, pipeline: str, now_s: float) -> Ruling:
        """Decide about *marker*, whose row in the ledger is *number*."""
        if marker.refused is not None:
            return Ruling(fate=Fate.REFUSED, reason=marker.refused)
        if marker.kind is not MarkerKind.MANUAL:
            if (reason := self.own.is_about(marker)) is not None:
                return Ruling(fate=Fate.SUPPRESSED, reason=reason)
            case, reason = self._match(marker, now_s)
            if case is not None:
                return self._join(case, marker, reason, now_s)
        case = self._open(number, marker, pipeline, now_s)
        if marker.kind is MarkerKind.MANUAL:  # somebody is waiting: no budget, first in the queue
            self._queue.appendleft(case)
            return Ruling(fate=Fate.QUEUED, case=case)
        return self._admit(case, now_s)

    def resume(self, number: int, markers: Sequence[Marker], *, pipeline: str, now_s: float) -> Ruling:
        """
        Resume a case that was admitted before a restart, with all its *markers*; it joins no other case.

        Whether it is queued or held now depends on the budgets as they are.
        """
        first, *others = markers
        case = self._open(number, first, pipeline, now_s)
        for marker in others:
            case.add(marker, now_s)
            self._index(case, marker)
        return self._admit(case, now_s)

    def next(self, now_s: float) -> Case | None:
        """Return a case to run now, ``None`` if there is none; it counts as running until `finished`."""
        if len(self._running) >= MAX_RUNNING:
            return None
        self._release(now_s)
        for case in self._queue:
            if case.ready_s <= now_s:
                self._queue.remove(case)
                self._running.append(case)
                return case
        return None

    def due_s(self, now_s: float) -> float | None:
        """Return when to call `next` again if no marker arrives; ``None`` while nothing waits."""
        if len(self._running) >= MAX_RUNNING:
            return None  # until one of them ends
        times = [case.ready_s for case in self._queue]
        if self._held:
            times.append(self._budgets.next_room_s(now_s))
        return min(times, default=None)

    def finished(self, case: Case, *, incident: str | None, size_bytes: int) -> None:
        """Close *case*: later markers about it join *incident* in the ledger only."""
        case.incident, case.done = incident, True
        if case in self._running:
            self._running.remove(case)
        self._budgets.settle(case.executable, case.spent_s, size_bytes)

    def _open(self, number: int, marker: Marker, pipeline: str, now_s: float) -> Case:
        """Return a new case with its first marker."""
        case = Case(
            id=number, pipeline=pipeline, opened_s=now_s, executable=executable(marker), markers=[marker],
            ready_s=now_s + (SETTLE_S if awaits_core(marker) else 0.0),
        )  # fmt: skip
        self._index(case, marker)
        return case

    def _admit(self, case: Case, now_s: float) -> Ruling:
        """Queue *case* if the budgets have room for it, else hold it."""
        if (reason := self._budgets.exceeded(case.executable, case.markers[0].uid, now_s)) is not None:
            return Ruling(fate=Fate.HELD, reason=reason, case=case, displaced=self._hold(case))
        return Ruling(fate=Fate.QUEUED, case=case, displaced=self._enqueue(case, now_s))

    def _match(self, marker: Marker, now_s: float) -> tuple[Case | None, str]:
        """Return the case that the marker belongs to, and why."""
        if marker.process is not None:
            case = self._by_pid.get(marker.process.pid)
            if case is not None and self._same_crash(case, marker, marker.process.pid, now_s):
                return case, f"the crash of process {marker.process.pid}"
        case = self._by_executable.get(executable(marker))
        if case is not None and not case.done and now_s - case.opened_s < self._settings.coalesce_s:
            return case, f"{executable(marker)} crashed again within {self._settings.coalesce_s:g} s"
        return None, ""

    def _same_crash(self, case: Case, marker: Marker, pid: int, now_s: float) -> bool:
        """Return whether *marker* is about the crash of *pid* that *case* knows."""
        about = [known for known in case.markers if known.process is not None and known.process.pid == pid]
        if not about:  # left out of a crowded case, or among its `also`
            return now_s - case.opened_s <= SAME_CRASH_S
        known = merge(about)
        mine = marker.process.start_time_ticks if marker.process else None
        theirs = known.process.start_time_ticks if known.process else None
        if mine is not None and theirs is not None and mine != theirs:
            return False
        if marker.uid is not None and known.uid is not None and marker.uid != known.uid:
            return False
        if marker.core is not None and (known.core is not None or case.done):
            return False  # a second core is another crash; one that arrives late still has to be collected
        certain = (mine is not None and mine == theirs) or (marker.comm is not None and marker.comm == known.comm)
        return now_s - case.opened_s <= (LONGEST_DUMP_S if certain else SAME_CRASH_S)

    def _join(self, case: Case, marker: Marker, reason: str, now_s: float) -> Ruling:
        """Add the marker to *case*; if the case is over, it joins in the ledger only."""
        if not case.done:
            case.add(marker, now_s)
            self._index(case, marker)
        return Ruling(fate=Fate.JOINED, reason=reason, case=case)

    def _enqueue(self, case: Case, now_s: float) -> tuple[int, ...]:
        """Queue *case*; in a full queue it takes the place of the last one, whose number is returned."""
        displaced: tuple[int, ...] = ()
        if len(self._queue) >= self._settings.queue:
            last = self._queue.pop()
            last.done = True
            self._budgets.give_back(last.executable, last.spent_s)
            displaced = (last.id,)
        case.spent_s = now_s
        self._queue.append(case)
        self._budgets.spend(case.executable, case.markers[0].uid, now_s)
        put_newest(self._by_executable, case.executable, case, MAX_RECENT)
        return displaced

    def _hold(self, case: Case) -> tuple[int, ...]:
        """Hold *case* as the newest of its executable; return the numbers of the cases that it displaces."""
        gone = [before] if (before := self._held.pop(case.executable, None)) is not None else []
        if len(self._held) >= MAX_HELD:
            gone.append(self._held.pop(next(iter(self._held))))
        for before in gone:
            before.done = True
        self._held[case.executable] = case
        return tuple(before.id for before in gone)

    def _release(self, now_s: float) -> None:
        """Queue held cases whose budget has room again, the longest held first."""
        for name, case in list(self._held.items()):
            room = len(self._queue) < self._settings.queue
            if room and self._budgets.exceeded(name, case.markers[0].uid, now_s) is None:
                del self._held[name]
                self._enqueue(case, now_s)

    def _index(self, case: Case, marker: Marker) -> None:
        """Make *case* findable by the PIDs of *marker*."""
        for ref in (marker.process, *marker.also):
            if ref is not None:
                put_newest(self._by_pid, ref.pid, case, MAX_RECENT)
