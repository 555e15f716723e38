"""
Admission: which marker opens an incident, which joins one, which waits, and which is only recorded.

Pure: times are arguments (seconds on one monotonic clock), nothing is read or written. Every table is
bounded, and a flood spends only its own budget:

- An *executable* is its name **and its uid**: files named ``core.engine`` that user ``nobody`` creates spend
  the budget of ``nobody``, not the engine's.
- Which markers are one crash is `model.identity`'s to say; different processes never are. A witness that names no
  certain process opens no case while one is open that it does not contradict.
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
from collector.model.case import Case, Fate, awaits_core, executable
from collector.model.identity import (
    agreement,
    contradiction,
    invocation,
    is_a_claim,
    is_about_a_process,
    is_certain,
    tasks,
    tells_image,
)
from collector.model.marker import Marker, MarkerKind

MAX_RECENT = 4096  # keys, of which a case has up to ten
# Incidents under way: the light steps of each run immediately, then all but one wait for their turn to copy.
MAX_RUNNING = 32
MAX_HELD = 64
SETTLE_S = 0.5
"""How long a case that only a core will complete waits for it: most dumps take less, and a longer one still holds its
process, whose ``/proc/PID`` can be read."""


class OwnProcesses(msgspec.Struct, frozen=True, kw_only=True):
    """The collector's own *pids*, past ones included, and *units*: their crashes never open an incident."""

    pids: frozenset[int] = frozenset()
    units: frozenset[str] = frozenset()

    def is_about(self, marker: Marker) -> str | None:
        """Return why *marker* is about the collector itself; ``None`` if it is not."""
        if marker.process is not None and not marker.doubtful and marker.process.pid in self.pids:
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
    suppressed now, because this one is newer. *limit* is the limit that was reached, as operators know it, and *owner*
    who pays for it.
    """

    fate: Fate
    reason: str = ""
    case: Case | None = None
    displaced: tuple[int, ...] = ()
    limit: str = ""
    owner: str = ""


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
        self._recent: dict[str, Case] = {}

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
            if (ruling := self._joined(marker, pipeline, now_s)) is not None:
                return ruling
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
            ready_s=now_s + (SETTLE_S if awaits_core(marker) or _is_lost(marker) else 0.0),
        )  # fmt: skip
        self._index(case, marker)
        return case

    def _admit(self, case: Case, now_s: float) -> Ruling:
        """Queue *case* if the budgets have room for it, else hold it."""
        if (reason := self._budgets.exceeded(case.executable, case.markers[0].uid, now_s)) is not None:
            return Ruling(fate=Fate.HELD, reason=reason, case=case, displaced=self._hold(case))
        return Ruling(fate=Fate.QUEUED, case=case, displaced=self._enqueue(case, now_s))

    def _joined(self, marker: Marker, pipeline: str, now_s: float) -> Ruling | None:
        """Rule on a marker that is no crash of its own; return ``None`` for one that is."""
        agreeing = [
            (found.strength, is_certain(case.marker), case.opened_s, found.reason, case)
            for case in self._candidates(marker)
            # A core that arrives after its incident is over still has to be collected.
            if not (case.done and marker.core is not None and case.marker.core is None)
            and (found := agreement(case.marker, marker, apart_s=now_s - case.opened_s)) is not None
        ]
        if agreeing:
            *_, reason, case = max(agreeing, key=lambda found: found[:3])
            if case not in self._running and case.markers[0].kind is MarkerKind.KERNEL_LOG:
                case.pipeline = pipeline  # that of a source that is about this process, rather than about the kernel
            return self._join(case, marker, Fate.JOINED, reason, now_s)
        if is_certain(marker):
            return None
        if is_about_a_process(marker):
            for case in self._open_cases():
                if contradiction(case.marker, marker) is None:
                    reason = "it names no certain process, and may be about this crash"
                    return self._join(case, marker, Fate.UNATTRIBUTED, reason, now_s)
            return None
        known = self._recent.get(executable(marker))
        if known is None or known.done or now_s - known.opened_s >= self._settings.coalesce_s:
            return None
        reason = f"{executable(marker)} was reported again within {self._settings.coalesce_s:g} s"
        return self._join(known, marker, Fate.JOINED, reason, now_s)

    def _candidates(self, marker: Marker) -> list[Case]:
        """Return the recent cases that share a key with *marker*."""
        found = (self._recent.get(key) for key in (*_keys(marker), *_claims(marker)))
        return list({case.id: case for case in found if case is not None}.values())

    def _open_cases(self) -> list[Case]:
        """Return the cases about crashes that are not over, the newest first."""
        found = (*self._running, *self._queue, *self._held.values())
        crashes = (case for case in found if case.is_crash and not case.done)
        return sorted(crashes, key=lambda case: case.opened_s, reverse=True)

    def _join(self, case: Case, marker: Marker, fate: Fate, reason: str, now_s: float) -> Ruling:
        """Add the marker to *case*; if the case is over, it joins in the ledger only."""
        if not case.done:
            case.add(msgspec.structs.replace(marker, attributed=fate is Fate.JOINED), now_s)
        if fate is Fate.JOINED:
            self._index(case, marker)
        return Ruling(fate=fate, reason=reason, case=case)

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
        """Make *case* findable by what *marker* says about the crash; a run by hand is about none."""
        if marker.kind is not MarkerKind.MANUAL:
            for key in (*(_images(marker) if is_a_claim(marker) else _keys(marker)), *_claims(marker)):
                put_newest(self._recent, key, case, MAX_RECENT)


def _is_lost(marker: Marker) -> bool:
    """Return whether the kernel says that there will be no core: other witnesses are on their way."""
    return marker.attributes.get("event") == "core_lost"


def _keys(marker: Marker) -> list[str]:
    """Return the keys under which markers of one crash find each other; `agreement` then decides."""
    if not is_about_a_process(marker):
        return [executable(marker)]
    keys = [f"task {number}" for number in tasks(marker)]
    if marker.process is not None and marker.process.start_time_ticks is not None:
        keys.append(f"process {marker.process.pid} {marker.process.start_time_ticks}")
    run = invocation(marker)
    if marker.image is not None:
        keys.append(f"image {marker.image} {marker.inner_pid}")
    return keys + ([f"invocation {run}"] if run is not None else [])


def _images(marker: Marker) -> list[str]:
    """Return the key of the process's memory."""
    known = marker.image is not None and tells_image(marker)
    return [f"image {marker.image} {marker.inner_pid}"] if known else []


def _claims(marker: Marker) -> list[str]:
    """Return the keys of a user's own: what he claims must not take the place of what is certain."""
    return [f"{key} of uid {marker.uid}" for key in _keys(marker)]
