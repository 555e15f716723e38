"""What a storm of crashes may cost, and what it has cost so far."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

MAX_SPENT = 4096


class CountBudget(msgspec.Struct, frozen=True, kw_only=True):
    """So many incidents within a sliding window; a count of 0 means no limit."""

    count: int
    window_s: float


class TotalBudget(msgspec.Struct, frozen=True, kw_only=True):
    """So many incidents and so many archived bytes within a sliding window; 0 means no limit."""

    count: int
    size_bytes: int
    window_s: float


class StormSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a storm of crashes may cost.

    Args:
        coalesce_s: A crash of the same executable joins a case that was opened no longer ago.
        settle_s: A case that only a core will complete waits so long for it. Dumps that take less
            are over by then; a longer one still holds its process, whose ``/proc/PID`` can be read.
        same_crash_s: Markers of one PID are one crash within this time, where no start time tells.
        queue: Cases that may wait for their turn.
    """

    coalesce_s: float = 5.0
    settle_s: float = 0.5
    same_crash_s: float = 30.0
    per_executable: CountBudget = CountBudget(count=5, window_s=600.0)
    per_uid: CountBudget = CountBudget(count=10, window_s=600.0)
    total: TotalBudget = TotalBudget(count=20, size_bytes=200 << 30, window_s=3600.0)
    queue: int = 64


@dataclass(slots=True, kw_only=True)
class Spent:
    """One admitted incident, as the budgets count it."""

    at_s: float
    executable: str
    uid: int | None
    size_bytes: int = 0


@dataclass(slots=True)
class Budgets:
    """
    The sliding windows.

    Bounded by the total budget: what it does not admit is never spent. Without one (a count of 0),
    `MAX_SPENT` is the end.
    """

    settings: StormSettings
    _spent: deque[Spent] = field(default_factory=lambda: deque(maxlen=MAX_SPENT))

    def restore(self, spent: Iterable[Spent]) -> None:
        """Take up what was spent before a restart, oldest first."""
        self._spent.extend(spent)

    def spend(self, executable: str, uid: int | None, now_s: float) -> None:
        """Count one incident."""
        self._forget(now_s)
        self._spent.append(Spent(at_s=now_s, executable=executable, uid=uid))

    def settle(self, executable: str, at_s: float, size_bytes: int) -> None:
        """Add the bytes that an incident archived to what was spent for it."""
        if (spent := self._find(executable, at_s)) is not None:
            spent.size_bytes = size_bytes

    def give_back(self, executable: str, at_s: float) -> None:
        """Take back what was spent for an incident that never began."""
        if (spent := self._find(executable, at_s)) is not None:
            self._spent.remove(spent)

    def exceeded(self, executable: str, uid: int | None, now_s: float) -> str | None:
        """Say which budget has no room for one more incident; ``None`` if all have."""
        per, of_uid, total = self.settings.per_executable, self.settings.per_uid, self.settings.total
        since = [spent for spent in self._since(now_s - per.window_s) if spent.executable == executable]
        if per.count and len(since) >= per.count:
            return f"{len(since)} incidents of {executable} in {per.window_s:g} s"
        since = [spent for spent in self._since(now_s - of_uid.window_s) if spent.uid == uid]
        if of_uid.count and len(since) >= of_uid.count:
            return f"{len(since)} incidents of uid {uid} in {of_uid.window_s:g} s"
        since = self._since(now_s - total.window_s)
        if total.count and len(since) >= total.count:
            return f"{len(since)} incidents in {total.window_s:g} s"
        size_bytes = sum(spent.size_bytes for spent in since)
        if total.size_bytes and size_bytes >= total.size_bytes:
            return f"{size_bytes} bytes archived in {total.window_s:g} s"
        return None

    def next_room_s(self, now_s: float) -> float:
        """Return when the next incident leaves a window."""
        windows_s = {
            budget.window_s for budget in (self.settings.per_executable, self.settings.per_uid, self.settings.total)
        }
        ends = (spent.at_s + window_s for spent in self._spent for window_s in windows_s)
        return min((end for end in ends if end > now_s), default=now_s)

    def _since(self, oldest_s: float) -> list[Spent]:
        return [spent for spent in self._spent if spent.at_s > oldest_s]

    def _find(self, executable: str, at_s: float) -> Spent | None:
        """Return the newest entry of that executable and moment."""
        matching = (spent for spent in reversed(self._spent) if spent.executable == executable and spent.at_s == at_s)
        return next(matching, None)

    def _forget(self, now_s: float) -> None:
        """Drop what no window reaches any more."""
        budgets = (self.settings.per_executable, self.settings.per_uid, self.settings.total)
        longest_s = max(budget.window_s for budget in budgets)
        while self._spent and self._spent[0].at_s <= now_s - longest_s:
            self._spent.popleft()
