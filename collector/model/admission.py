"""
Admission: which marker opens an incident, which joins one, which waits, and which is only recorded.

Pure: times are arguments (seconds on one monotonic clock), nothing is read or written. Every table is
bounded, and a flood spends only its own budget:

- An *executable* is its name **and its uid**: files named ``core.engine`` that user ``nobody`` creates spend
  the budget of ``nobody``, not the engine's.
- Each table has an *owner* for each entry; where one is full, the owner who has most gives way (`model.shares`).
- Which markers are one crash is `model.identity`'s to say; different processes never are. A witness that names no
  certain process opens no case while one is open that it does not contradict.
- Beyond a budget a case is collected without bulk, if ``over_budget`` says so and has room; else the newest case of
  each executable is held, and collected once the window has room again: of every storm, the first and the newest are
  kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from collector.model.budgets import Budgets, Excess, Spent, StormSettings
from collector.model.case import Case, Fate, awaits_core, brings_core, executable, owner_of
from collector.model.identity import agreement, contradiction, is_about_a_process, is_certain
from collector.model.marker import Marker, MarkerKind
from collector.model.own_processes import OwnProcesses
from collector.model.owners import Owners, is_protected, user_of
from collector.model.queue import CaseQueue
from collector.model.recent import RecentCases
from collector.model.ruling import Displaced, Ruling
from collector.model.shares import FairTable

MAX_HELD = 64
SETTLE_S = 0.5
"""How long a case that only a core will complete waits for it: most dumps take less, and a longer one still holds its
process, whose ``/proc/PID`` can be read."""


class Admission:
    """The rules, and the bounded tables that they need."""

    def __init__(
        self, settings: StormSettings, own: OwnProcesses | None = None, *, owners: Owners | None = None
    ) -> None:
        """Begin with nothing queued and nothing spent; *own* may be replaced at any time."""
        self.own = own or OwnProcesses()
        self._settings = settings
        self._owners = owners or Owners()
        self._budgets = Budgets(settings)
        self._queue = CaseQueue()
        self._held: FairTable[tuple[str, str], Case] = FairTable(MAX_HELD)
        self._recent = RecentCases()

    @property
    def queued(self) -> int:
        """The number of cases that wait for their turn."""
        return len(self._queue)

    @property
    def held(self) -> int:
        """The number of cases that wait for a budget."""
        return len(self._held)

    @property
    def draining(self) -> int:
        """The number of cases that wait and may still begin."""
        return self._queue.draining

    def drain(self, *, on: bool) -> None:
        """Let nothing begin but what is queued now; or, again, everything."""
        self._queue.drain(on=on)

    def may_begin(self, case: Case) -> bool:
        """Return whether *case* is under way, or need not wait for the end of a drain."""
        return case in self._queue.running or self._queue.may_begin(case)

    @property
    def idle(self) -> bool:
        return not self._queue.running and not self._queue

    def configure(self, settings: StormSettings, owners: Owners) -> None:
        """Apply new settings from now on; what is queued, held or spent does not change."""
        self._settings = settings
        self._budgets.configure(settings)
        self._owners = owners

    def restore(self, spent: Iterable[Spent]) -> None:
        """Restore what was spent before a restart, oldest first."""
        self._budgets.restore(spent, self._owners)

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
            self._queue.put(case)
            return Ruling(fate=Fate.QUEUED, case=case, owner=case.owner)
        return self._admit(case, now_s)

    def resume(self, number: int, markers: Sequence[Marker], *, pipeline: str, now_s: float) -> Ruling:
        """
        Resume a case that was admitted before a restart, with all its *markers*; it joins no other case.

        Whether it is queued or held now depends on the budgets as they are.
        """
        return self._admit(self._reopen(number, markers, pipeline, now_s), now_s)

    def go_on(self, number: int, markers: Sequence[Marker], *, pipeline: str, now_s: float) -> Case:
        """Queue a case whose incident was begun before a restart: it has paid, and its place is not another's."""
        case = self._reopen(number, markers, pipeline, now_s)
        case.spent = self._budgets.spend(case.executable, case.owner, now_s)
        self._queue.put(case)
        return case

    def next(self, now_s: float) -> Case | None:
        """Return a case to run now, ``None`` if there is none; it counts as running until `finished`."""
        self._release(now_s)
        return self._queue.take(now_s)

    def due_s(self, now_s: float) -> float | None:
        """Return when to call `next` again if no marker arrives; ``None`` while nothing waits."""
        held_s = self._budgets.next_room_s(now_s) if self._held else None
        return min((time_s for time_s in (self._queue.due_s(), held_s) if time_s is not None), default=None)

    def finished(self, case: Case, *, incident: str | None, size_bytes: int) -> None:
        """Close *case*: later markers about it join *incident* in the ledger only."""
        case.incident = incident
        case.end()
        self._queue.finished(case)
        if case.spent is None:
            return
        # A disk that others filled must not cost root his budget, too; who may fill it himself gets nothing back.
        if incident is None and is_protected(case.owner):
            self._budgets.give_back(case.spent)
        else:
            self._budgets.settle(case.spent, size_bytes)

    def _reopen(self, number: int, markers: Sequence[Marker], pipeline: str, now_s: float) -> Case:
        first, *others = markers
        self._budgets.refund(number)
        case = self._open(number, first, pipeline, now_s)
        for marker in others:
            case.add(marker, now_s)
            self._index(case, marker)
        return case

    def _open(self, number: int, marker: Marker, pipeline: str, now_s: float) -> Case:
        """Return a new case with its first marker."""
        case = Case(
            id=number, pipeline=pipeline, opened_s=now_s, executable=executable(marker),
            owner=owner_of(marker, self._owners), markers=[marker],
            ready_s=now_s + (SETTLE_S if awaits_core(marker) or _is_lost(marker) else 0.0),
        )  # fmt: skip
        self._index(case, marker)
        return case

    def _admit(self, case: Case, now_s: float) -> Ruling:
        """Queue *case* if the budgets have room for it, or those for what is beyond them; else hold it."""
        excess, displaced = self._place(case, now_s)
        fate, (limit, reason) = (Fate.QUEUED, ("", "")) if excess is None else (Fate.HELD, excess)
        if case.over_budget:
            fate, reason = Fate.QUEUED, f"over budget: {case.over_budget}"
        for gone in displaced:
            if gone.number == case.id:  # its owner has most, and nothing but this
                fate, limit, reason = Fate.SUPPRESSED, gone.limit, gone.reason
        others = tuple(gone for gone in displaced if gone.number != case.id)
        return Ruling(fate=fate, reason=reason, case=case, owner=case.owner, limit=limit, displaced=others)

    def _place(self, case: Case, now_s: float) -> tuple[Excess | None, tuple[Displaced, ...]]:
        """Queue *case*, or hold it; return the budget that is exceeded, and the cases that it displaces."""
        excess = self._budgets.exceeded(case.executable, case.owner, now_s)
        if excess is None:
            return None, self._enqueue(case, now_s)
        pipeline = self._settings.over_budget.pipeline
        if pipeline is None or not self._budgets.has_room_beyond(case.executable, case.owner, now_s):
            return excess, self._hold(case, excess)
        case.over_budget = f"{excess.reason}; {pipeline}"
        return excess, self._enqueue(case, now_s)

    def _joined(self, marker: Marker, pipeline: str, now_s: float) -> Ruling | None:
        """Rule on a marker that is no crash of its own; return ``None`` for one that is."""
        agreeing = [
            (found.strength, is_certain(case.marker), case.opened_s, found.reason, case)
            for case in self._recent.sharing(marker)
            if not (brings_core(marker) and case.awaits_late_core)
            and (found := agreement(case.marker, marker, apart_s=now_s - case.opened_s)) is not None
        ]
        if agreeing:
            *_, reason, case = max(agreeing, key=lambda found: found[:3])
            if case not in self._queue.running and case.markers[0].kind is MarkerKind.KERNEL_LOG:
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
        known = self._recent.of_event(marker)
        if known is None or known.done or now_s - known.opened_s >= self._settings.coalesce_s:
            return None
        reason = f"{executable(marker)} was reported again within {self._settings.coalesce_s:g} s"
        return self._join(known, marker, Fate.JOINED, reason, now_s)

    def _open_cases(self) -> list[Case]:
        """Return the cases about crashes that are not over, the newest first."""
        found = (*self._queue.running, *self._queue, *(case for _, case in self._held.items()))
        crashes = (case for case in found if case.is_crash and not case.done)
        return sorted(crashes, key=lambda case: case.opened_s, reverse=True)

    def _join(self, case: Case, marker: Marker, fate: Fate, reason: str, now_s: float) -> Ruling:
        """Add the marker to *case*; if the case is over, it joins in the ledger only."""
        if not case.done:
            case.add(msgspec.structs.replace(marker, attributed=fate is Fate.JOINED), now_s)
        again = None
        if fate is Fate.JOINED:
            self._index(case, marker)
            if not case.done and (owner := owner_of(case.marker, self._owners)) != case.owner:
                again = self._charge(case, owner, now_s)
        displaced = () if again is None else again.displaced
        return Ruling(fate=fate, reason=reason, case=case, owner=case.owner, displaced=displaced, again=again)

    def _charge(self, case: Case, owner: str, now_s: float) -> Ruling | None:
        """
        Let *case*, which began with a witness that did not know whose crash it is, be paid by *owner*.

        Return how it is ruled on again, if it has not begun: else each crash of a loop that is seen first by such a
        witness would find that account empty, and be collected. What has begun stays on it if the new one has no room.
        """
        was_held = self._held.get((case.owner, case.executable)) is case  # else that place is another case's
        if was_held:
            self._held.pop((case.owner, case.executable))
        case.owner, case.executable = owner, executable(case.marker)
        if not was_held and not self._queue.withdraw(case):
            if case.spent is not None and self._budgets.exceeded(case.executable, owner, now_s) is None:
                self._budgets.charge(case.spent, owner, case.executable)
            return None
        if case.spent is not None:
            self._budgets.give_back(case.spent)
        case.spent, case.over_budget = None, ""
        return self._admit(case, now_s)

    def _enqueue(self, case: Case, now_s: float) -> tuple[Displaced, ...]:
        """Queue *case*; if the queue is too long then, the last of the owner who has most is returned."""
        self._queue.put(case)
        beyond = bool(case.over_budget)
        case.spent = self._budgets.spend(case.executable, case.owner, now_s, over_budget=beyond)
        if (last := self._queue.displace(self._settings.queue)) is None:
            return ()
        return (self._suppress(last, "storm.queue", f"the queue is full, and {last.owner} has most places in it"),)

    def _hold(self, case: Case, excess: Excess) -> tuple[Displaced, ...]:
        """Hold *case* as the newest of its executable; return the cases that it displaces."""
        first = case.markers[0]
        case.markers[0] = msgspec.structs.replace(first, attributes=first.attributes | {"held": excess.reason})
        key, gone = (case.owner, case.executable), []
        if (before := self._held.pop(key)) is not None:
            reason = f"{excess.reason}, and a newer one took its place"
            gone.append(self._suppress(before, excess.limit, reason))
        if (most := self._held.put(key, case, case.owner)) is not None:
            reason = f"{MAX_HELD} cases are held, and {most[1].owner} has most of them"
            gone.append(self._suppress(most[1], "held cases", reason))
        return tuple(gone)

    def _suppress(self, case: Case, limit: str, reason: str) -> Displaced:
        """End a case that makes room for another one."""
        if case.spent is not None:
            self._budgets.give_back(case.spent)
        case.end()
        case.given_up = True
        return Displaced(case.id, case.owner, limit, reason, case.markers[0].trigger)

    def _release(self, now_s: float) -> None:
        """Queue held cases whose budget has room again, the longest held first."""
        for key, case in list(self._held.items()):
            # Whoever has nothing in the queue needs no place that others leave.
            room = len(self._queue) < self._settings.queue or user_of(case.owner) not in self._queue.users
            if room and self._budgets.exceeded(case.executable, case.owner, now_s) is None:
                self._held.pop(key)
                self._queue.put(case)
                case.spent = self._budgets.spend(case.executable, case.owner, now_s)

    def _index(self, case: Case, marker: Marker) -> None:
        """Make *case* findable by what *marker* says about the crash; a run by hand is about none."""
        if marker.kind is not MarkerKind.MANUAL:
            self._recent.add(case, marker, owner=user_of(owner_of(marker, self._owners)))


def _is_lost(marker: Marker) -> bool:
    """Return whether the kernel says that there will be no core: other witnesses are on their way."""
    return marker.attributes.get("event") == "core_lost"
