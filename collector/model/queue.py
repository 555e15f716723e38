"""The queue of cases and the places where they run: by turns of who pays for them. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from collector.model.case import Case
from collector.model.marker import MarkerKind
from collector.model.owners import is_protected, user_of
from collector.model.shares import gives_way, has_room

# Incidents under way: the light steps of each run immediately, then all but one wait for their turn to copy. One user
# gets 16, which is more than the shipped budget per user.
MAX_RUNNING = 64


class CaseQueue:
    """
    Cases that wait, the oldest first, and those that are running.

    A run by hand goes first; then root and the configured units; then whoever has fewest running, and of those who have
    as many, whose turn was longest ago.
    """

    def __init__(self) -> None:
        self.running: list[Case] = []
        self._waiting: list[Case] = []
        self._turns: dict[str, int] = {}  # of the users who have something waiting or running
        self._turn = 0
        self._last: frozenset[int] | None = None  # while it is drained: the cases that may still begin, by id
        self._room: dict[str, bool] = {}  # whether an owner may have another place, as long as nothing begins or ends

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Case]:
        return iter(self._waiting)

    @property
    def users(self) -> set[str]:
        """Who has something in the queue."""
        return {user_of(case.owner) for case in self._waiting}

    def drain(self, *, on: bool) -> None:
        """From now on, begin only those that wait at this moment; or, again, all. Once drained, it stays as it is."""
        if not on:
            self._last = None
        elif self._last is None:
            self._last = frozenset(case.id for case in self._waiting)

    def may_begin(self, case: Case) -> bool:
        """Return whether *case* need not wait for the end of a drain."""
        return self._last is None or case.id in self._last

    @property
    def draining(self) -> int:
        """The number of those that may begin."""
        return sum(map(self.may_begin, self._waiting))

    def put(self, case: Case) -> None:
        self._waiting.append(case)

    def withdraw(self, case: Case) -> bool:
        """Remove a case that waits; return whether it did."""
        waits = case in self._waiting
        if waits:
            self._waiting.remove(case)
        return waits

    def displace(self, limit: int) -> Case | None:
        """Remove and return, if more than *limit* wait, the last but one of the owner who has most.

        Runs by hand do not count: somebody waits for them.
        """
        waiting = [case for case in self._waiting if not _is_by_hand(case)]
        if len(waiting) <= limit:
            return None
        owner = gives_way(Counter(case.owner for case in waiting), limit)
        mine = [case for case in waiting if case.owner == owner]
        last = mine[-2:][0]  # of every storm, the first and the newest are kept
        self._waiting.remove(last)
        return last

    def take(self, now_s: float) -> Case | None:
        """Return the case to run now, which is among the running ones from now on; ``None`` if there is none."""
        due = [case for case in self._runnable() if case.ready_s <= now_s]
        if not due:
            return None
        running = Counter(user_of(case.owner) for case in self.running)

        def order(case: Case) -> tuple[bool, bool, int, int]:
            user = user_of(case.owner)
            return not _is_by_hand(case), not is_protected(user), running[user], self._turns.get(user, 0)

        case = min(due, key=order)
        self._waiting.remove(case)
        self.running.append(case)
        self._room.clear()
        self._turn += 1
        self._turns[user_of(case.owner)] = self._turn
        return case

    def due_s(self) -> float | None:
        """Return when the first of those that may run is ready; ``None`` if none is until another one ends."""
        return min((case.ready_s for case in self._runnable()), default=None)

    def finished(self, case: Case) -> None:
        """Free the place of a case that was running."""
        if case in self.running:
            self.running.remove(case)
        self._room.clear()
        present = self.users | {user_of(one.owner) for one in self.running}
        self._turns = {user: turn for user, turn in self._turns.items() if user in present}

    def _runnable(self) -> list[Case]:
        """Return the cases whose owner may have another place."""
        used = Counter(case.owner for case in self.running)
        known, owners = self._room, {case.owner for case in self._waiting}
        self._room = {owner: known[owner] if owner in known else has_room(used, owner, MAX_RUNNING) for owner in owners}
        free = [case for case in self._waiting if self.may_begin(case)]
        return [case for case in free if _is_by_hand(case) or self._room[case.owner]]


def _is_by_hand(case: Case) -> bool:
    return case.markers[0].kind is MarkerKind.MANUAL
