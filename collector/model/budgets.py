"""What a flood of crashes may cost, and what it has cost so far."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import msgspec

from collector.model.constrained import Count, Name, SystemUnit, Window
from collector.model.identity import COMM_LENGTH
from collector.model.owners import Owners
from collector.model.shares import has_room
from collector.model.units import Bytes, Seconds, counted

MAX_SPENT = 4096


class CountBudget(msgspec.Struct, frozen=True, kw_only=True):
    """
    At most *count* incidents per *window*.

    Args:
        count: Incidents admitted within *window*; further crashes are beyond it (`storm.over_budget`).
        window_s: Length of the sliding window.
    """

    count: Count = 5
    window_s: Window = msgspec.field(name="window", default=Seconds(600.0))


class TotalBudget(msgspec.Struct, frozen=True, kw_only=True):
    """
    At most *count* incidents and *bytes* of data per *window*, in fair shares.

    Each user may take more while he has less than half of what is left, and a quarter is for root and `units` alone:
    the first user gets a quarter, the next ones a sixth, a ninth and so on; root and each of `units` up to half.

    Args:
        count: Incidents admitted within *window*.
        size_bytes: Data archived within *window*; an incident that goes beyond a share costs nobody else.
        window_s: Length of the sliding window.
    """

    # Four users at their full budget of 60 an hour, and root; an incident without bulk is 1 MB and 30 ms of CPU.
    count: Count = 500
    size_bytes: Bytes = msgspec.field(name="bytes", default=Bytes(200 << 30))
    window_s: Window = msgspec.field(name="window", default=Seconds(3600.0))


class OverBudget(msgspec.Struct, frozen=True, kw_only=True):
    """
    What becomes of crashes beyond a budget.

    Incidents that `pipeline` makes of them count against no other budget, ``archive.keep`` counts them by themselves,
    and they give way to all others where space is short. Beyond their own budgets, crashes are recorded, and the newest
    of each executable waits until it can be collected in full.

    Args:
        pipeline: What runs for them, without what it copies: of a core, the notes are read and the file is not kept.
            By default, nothing runs.
        per_executable: Budget of each executable for these incidents.
        total: Budget of the machine for these, in fair shares as `storm.total`.
    """

    # After a few in a row, one a minute shows whether a crash loop goes on as it began. 240 an hour are four such
    # loops, and the first user's share is one of them.
    pipeline: Name | None = None
    per_executable: CountBudget = CountBudget(window_s=Seconds(300.0))
    total: CountBudget = CountBudget(count=240, window_s=Seconds(3600.0))


class StormSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a flood of crashes may cost. Every marker is recorded, whether or not it is collected.

    Args:
        coalesce_s: Reports of an event that is about no process, such as the many lines of one fault of the kernel,
            become one incident within this time. Witnesses of the crash of a process are joined by what shows that it
            is one.
        per_executable: Budget of each executable.
        per_uid: Budget of each user, whose subordinate uids (``/etc/subuid``) are his.
        total: Budget of the machine.
        queue: Maximum number of crashes waiting to be collected; if it is full, the last but one of the user who has
            most is suppressed.
        over_budget: What becomes of crashes beyond a budget.
        units: System units (``engine.service``) that are, like root, users of their own, with a share of every limit
            that no ordinary user can use.
    """

    coalesce_s: Seconds = msgspec.field(name="coalesce", default=Seconds(5.0))
    per_executable: CountBudget = CountBudget()
    per_uid: CountBudget = CountBudget(count=10)
    total: TotalBudget = TotalBudget()
    queue: Count = 64
    over_budget: OverBudget = OverBudget()
    units: tuple[SystemUnit, ...] = ()

    @property
    def longest_window_s(self) -> float:
        """The time for which an incident counts in some budget, in seconds."""
        beyond = (self.over_budget.per_executable, self.over_budget.total)
        return max(budget.window_s for budget in (self.per_executable, self.per_uid, self.total, *beyond))


@dataclass(slots=True, eq=False, kw_only=True)
class Spent:
    """One admitted incident, as the budgets count it; without an *owner* (an earlier release), *uid* says whose."""

    at_s: float
    executable: str
    uid: int | None = None
    owner: str = ""
    size_bytes: int = 0
    case: int = 0
    """The number of the case that it was admitted for, where that is to be resumed."""
    over_budget: bool = False
    """It counts among those beyond the budgets."""


class Excess(NamedTuple):
    """The budget that has no room, as the configuration names it, and why."""

    limit: str
    reason: str


UNKNOWN_PATH = ", path unknown"


def name_of(executable: str) -> str:
    """Return *executable* as a source knows it that knows no path; itself if it is known so."""
    path, parenthesis, user = executable.rpartition(" (uid ")
    name = path.rpartition("/")[2][:COMM_LENGTH]
    return f"{name}{parenthesis}{user.partition(')')[0]})" if path.startswith("/") else executable


class SlidingWindow:
    """What was spent within the last *length_s*, by who paid; at most `MAX_SPENT` incidents, the newest."""

    def __init__(self, length_s: float) -> None:
        self.length_s = length_s
        self.spent: deque[Spent] = deque()
        self.by_owner: Counter[str] = Counter()
        self.by_executable: Counter[tuple[str, str]] = Counter()
        """By path and by name, see `of_executable`."""
        self.sizes: Counter[str] = Counter()

    def add(self, spent: Spent) -> None:
        self.spent.append(spent)
        self.count(spent, 1)
        if len(self.spent) > MAX_SPENT:
            self.count(self.spent.popleft(), -1)

    def remove(self, spent: Spent) -> None:
        self.spent.remove(spent)
        self.count(spent, -1)

    def forget(self, now_s: float) -> None:
        """Drop what is no longer within the window."""
        while self.spent and self.spent[0].at_s <= now_s - self.length_s:
            self.count(self.spent.popleft(), -1)

    def count(self, spent: Spent, sign: int) -> None:
        """Add an entry to the sums, or with the *sign* -1 take it from them."""
        name = name_of(spent.executable)
        other = name if name != spent.executable else name + UNKNOWN_PATH
        for key in ((spent.owner, spent.executable), (spent.owner, other)):
            self.by_executable[key] += sign
            if not self.by_executable[key]:
                del self.by_executable[key]
        self.by_owner[spent.owner] += sign
        self.sizes[spent.owner] += sign * spent.size_bytes
        if not self.by_owner[spent.owner]:
            del self.by_owner[spent.owner], self.sizes[spent.owner]

    def of_executable(self, executable: str, owner: str) -> int:
        """
        Return how many incidents *executable* has had.

        Of one crash loop, some crashes are seen first by who knows the path, and some by who knows only the name: that
        is one budget.
        """
        name = name_of(executable)
        known = self.by_executable[owner, executable]
        return known if name == executable else known + self.by_executable[owner, name + UNKNOWN_PATH]


class Budgets:
    """
    The sliding windows.

    Bounded by the total budget: what it does not admit is never spent. A count of 0 means no limit;
    then `MAX_SPENT` bounds them.
    """

    def __init__(self, settings: StormSettings) -> None:
        self._windows: tuple[SlidingWindow, ...] = ()
        self._windows_beyond: tuple[SlidingWindow, ...] = ()
        self.configure(settings)

    def configure(self, settings: StormSettings) -> None:
        """Apply new settings to what is spent, as far as the longest window has been reaching."""
        budgets = settings.per_executable, settings.per_uid, settings.total
        known = [
            spent
            for windows in (self._windows, self._windows_beyond)
            for spent in max((window.spent for window in windows), key=len, default=())
        ]
        beyond = settings.over_budget
        self._settings = settings
        self._windows_beyond = self._beyond_per_executable, self._beyond_total = (
            SlidingWindow(beyond.per_executable.window_s),
            SlidingWindow(beyond.total.window_s),
        )
        self._windows = self._per_executable, self._per_uid, self._total = (
            SlidingWindow(budgets[0].window_s),
            SlidingWindow(budgets[1].window_s),
            SlidingWindow(budgets[2].window_s),
        )
        for spent in known:
            self._add(spent)

    def restore(self, spent: Iterable[Spent], owners: Owners) -> None:
        """Restore what was spent before a restart, oldest first."""
        for one in spent:
            one.owner = one.owner or owners.of(one.uid, lane=one.executable)
            self._add(one)

    def spend(self, executable: str, owner: str, now_s: float, *, over_budget: bool = False) -> Spent:
        spent = Spent(at_s=now_s, executable=executable, owner=owner, over_budget=over_budget)
        self._add(spent)
        return spent

    def settle(self, spent: Spent, size_bytes: int) -> None:
        """Add the bytes that an incident archived to what was spent for it."""
        self._change(spent, spent.owner, spent.executable, size_bytes)

    def charge(self, spent: Spent, owner: str, executable: str) -> None:
        """Let another owner pay."""
        self._change(spent, owner, executable, spent.size_bytes)

    def refund(self, case: int) -> None:
        """Refund what a case spent before a restart: it is resumed, and spends again."""
        windows = (*self._windows, *self._windows_beyond)
        for spent in {one for window in windows for one in window.spent if one.case == case}:
            self.give_back(spent)

    def give_back(self, spent: Spent) -> None:
        """Refund an incident that never began."""
        for window in self._windows_of(spent):
            if spent in window.spent:
                window.remove(spent)

    def exceeded(self, executable: str, owner: str, now_s: float) -> Excess | None:
        """Return which budget has no room for one more incident; ``None`` if all have."""
        for window in self._windows:
            window.forget(now_s)
        per, of_uid, total = self._settings.per_executable, self._settings.per_uid, self._settings.total
        if per.count and (found := self._per_executable.of_executable(executable, owner)) >= per.count:
            return Excess("storm.per_executable", f"{counted(found, 'incident')} of {executable} in {per.window_s:g} s")
        if of_uid.count and (found := self._per_uid.by_owner[owner]) >= of_uid.count:
            return Excess("storm.per_uid", f"{counted(found, 'incident')} of {owner} in {of_uid.window_s:g} s")
        for used, limit, what in (
            (self._total.by_owner, total.count, "incidents"),
            (self._total.sizes, total.size_bytes, "bytes archived"),
        ):
            if limit and not has_room(used, owner, limit):
                whose = f"{used[owner]} of them of {owner}: no more is left for it"
                return Excess("storm.total", f"{used.total()} {what} in {total.window_s:g} s, {whose}")
        return None

    def has_room_beyond(self, executable: str, owner: str, now_s: float) -> bool:
        """Return whether one more crash beyond the budgets may be collected by ``over_budget.pipeline``."""
        for window in self._windows_beyond:
            window.forget(now_s)
        beyond = self._settings.over_budget
        of_executable = self._beyond_per_executable.of_executable(executable, owner)
        return of_executable < beyond.per_executable.count and has_room(
            self._beyond_total.by_owner, owner, beyond.total.count
        )

    def next_room_s(self, now_s: float) -> float:
        """Return when the next incident leaves a window."""
        ends = (one.spent[0].at_s + one.length_s for one in self._windows if one.spent)
        return min((end for end in ends if end > now_s), default=now_s)

    def _windows_of(self, spent: Spent) -> tuple[SlidingWindow, ...]:
        return self._windows_beyond if spent.over_budget else self._windows

    def _add(self, spent: Spent) -> None:
        for window in self._windows_of(spent):
            window.add(spent)

    def _change(self, spent: Spent, owner: str, executable: str, size_bytes: int) -> None:
        within = [window for window in self._windows_of(spent) if spent in window.spent]
        for window in within:
            window.count(spent, -1)
        spent.owner, spent.executable, spent.size_bytes = owner, executable, size_bytes
        for window in within:
            window.count(spent, 1)
