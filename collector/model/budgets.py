"""What a flood of crashes may cost, and what it has cost so far."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

from collector.model.constrained import Count, Window
from collector.model.units import Bytes, Seconds

MAX_SPENT = 4096


class CountBudget(msgspec.Struct, frozen=True, kw_only=True):
    """
    At most *count* incidents per *window*.

    Args:
        count: Incidents admitted within *window*; further crashes are recorded, not collected.
        window_s: Length of the sliding window.
    """

    count: Count = 5
    window_s: Window = msgspec.field(name="window", default=Seconds(600.0))


class TotalBudget(msgspec.Struct, frozen=True, kw_only=True):
    """
    At most *count* incidents and *bytes* of data per *window*.

    Args:
        count: Incidents admitted within *window*.
        size_bytes: Data archived within *window*.
        window_s: Length of the sliding window.
    """

    count: Count = 20
    size_bytes: Bytes = msgspec.field(name="bytes", default=Bytes(200 << 30))
    window_s: Window = msgspec.field(name="window", default=Seconds(3600.0))


class StormSettings(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a flood of crashes may cost. Every marker is recorded, whether or not it is collected.

    Args:
        coalesce_s: Reports of an event that is about no process, such as the many lines of one fault of the kernel,
            become one incident within this time. Witnesses of the crash of a process are joined by what shows that it
            is one.
        per_executable: Budget of each executable.
        per_uid: Budget of each user.
        total: Budget of the machine.
        queue: Maximum number of markers waiting to be collected.
    """

    coalesce_s: Seconds = msgspec.field(name="coalesce", default=Seconds(5.0))
    per_executable: CountBudget = CountBudget()
    per_uid: CountBudget = CountBudget(count=10)
    total: TotalBudget = TotalBudget()
    queue: Count = 64


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

    Bounded by the total budget: what it does not admit is never spent. A count of 0 means no limit;
    then `MAX_SPENT` bounds them.
    """

    settings: StormSettings
    _spent: deque[Spent] = field(default_factory=lambda: deque(maxlen=MAX_SPENT))

    def restore(self, spent: Iterable[Spent]) -> None:
        """Restore what was spent before a restart, oldest first."""
        self._spent.extend(spent)

    def spend(self, executable: str, uid: int | None, now_s: float) -> None:
        self._forget(now_s)
        self._spent.append(Spent(at_s=now_s, executable=executable, uid=uid))

    def settle(self, executable: str, at_s: float, size_bytes: int) -> None:
        """Add the bytes that an incident archived to what was spent for it."""
        if (spent := self._find(executable, at_s)) is not None:
            spent.size_bytes = size_bytes

    def give_back(self, executable: str, at_s: float) -> None:
        """Refund an incident that never began."""
        if (spent := self._find(executable, at_s)) is not None:
            self._spent.remove(spent)

    def exceeded(self, executable: str, uid: int | None, now_s: float) -> str | None:
        """Return which budget has no room for one more incident; ``None`` if all have."""
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
        """Drop what is outside every window."""
        budgets = (self.settings.per_executable, self.settings.per_uid, self.settings.total)
        longest_s = max(budget.window_s for budget in budgets)
        while self._spent and self._spent[0].at_s <= now_s - longest_s:
            self._spent.popleft()
