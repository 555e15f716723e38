"""The pace that learns the disk: full speed where nobody notices, else less than the disk can do."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from collector.copying.interval import LENGTH_S, MIB, Interval

HELD_UP = 0.1
"""Share of an interval that one late write must take to count, unless the rate is thought to be below all limits."""

GENTLE = 2 / 3
STEP = 1.7
BEYOND = 3.0
"""After an interval with a late write the rate is so much of what it wrote, then grows by steps, until so many times as
much is written without another: a second one meets a limit by little. At full speed it would hold everybody for most
of a tenth of a second once more."""

HELPED = 0.3
"""A second bad interval that wrote less than this share of its rate agrees with no limit that the first one saw."""

SHARE = 0.7
TOP_SHARE = 0.9
RECOVERY = 0.025
"""Share of the disk's speed that is taken at first, that it grows to, and that it grows by per second. Just above a
throttle's limit nobody's writes are on time: so another process's fsync took 39 ms at the 99th percentile, idle 2.9."""

REPAY_S = 0.05
"""Pause after a limit was met: what was written beyond it is missing from the next tenth of a second's budget."""

PUSH = 1.3
EXCESS_S = 0.25
FAILED_SHARE = 0.8
"""A test writes so many times the known speed, until so many seconds' worth of it was written beyond: a throttle saves
up two slices of a tenth of a second. It fails at the first late write, if the disk did this share of its known speed
meanwhile; with less, that was a moment's trouble."""

TRUST_S = 0.6
SLOW_TRUST_S = 4.0
DISTRUST = 8.0
TRUST_LIMIT_S = 80.0
"""Time of writing without trouble before the first test, and on a disk that looks slow; each test that fails makes it
so many times as long, up to a limit. Most trouble is over in a moment; a throttle stays, and every test costs others
a late write."""

FORGOTTEN = 10.0
"""Multiple of that time after which a limit is a new finding, and no longer the last one's confirmation."""

CREEP = 1.005
"""Growth of the usual latency per interval: it follows a disk that is slower for good, not a rate near a limit."""

NEAR = 0.75
LOWER = 0.95
"""If more than that share of the rate is written, but late, a limit is to blame, no neighbour: it is lower."""

DENT = 0.9
"""What a bad moment leaves of the rate: it says little about the disk."""

LASTING_S = 1.0
LOSS = 0.5
"""A bad moment that lasts so long is the disk's new speed; of the old one this share is left at least."""

BACK_OFF = 0.7
YIELD_EVERY_S = 30.0
STALLED_SHARE = 0.2
"""If others wait for I/O for more than this share of the time, the rate is cut, seldom: if they go on waiting, it is
not for this copy."""

IDLE_S = 1.0
"""Writes so far apart do not belong together."""

LEAST_RATE = 4 * MIB


class Phase(enum.Enum):
    """What is known of the disk."""

    FREE = "it has no limit that anybody would notice"
    SUSPECT = "an interval was bad, another one would show a limit"
    HELD = "it has a limit: keep below it"
    TEST = "it had a limit: see whether it still stands"


@dataclass(slots=True)
class Adaptive:
    """
    Full speed on a disk that is fast enough; on a slower one, or behind a throttle, a share of its speed.

    An interval of writes is bad if it kept a slow disk busy, or if a write in it was late. One is a hiccup; two
    show a limit. Then the rate is `SHARE` of what the disk did, and grows to `TOP_SHARE`. Tests see, ever more
    seldom, whether the limit still stands. Time in which nothing is written counts for nothing.

    Attributes:
        rate: Bytes per second; infinite for full speed.
        capacity: What the disk was last seen to do, in bytes per second.
        usual_s: What a write takes when nobody is in its way.
        slow_downs: How often the rate was cut.
    """

    rate: float = math.inf
    capacity: float = 0.0
    usual_s: float | None = None
    slow_downs: int = 0
    _phase: Phase = field(init=False)
    _next_s: float = 0.0
    _grown_s: float = 0.0
    _set_s: float = float("-inf")
    _last_s: float = 0.0
    _judged_s: float = 0.0
    _yielded_s: float = -YIELD_EVERY_S
    _tested_s: float = float("-inf")
    _trust_s: float = TRUST_S
    _good_s: float = 0.0
    _suspected: float = 0.0
    _excess: float = 0.0
    _interval: Interval | None = None
    _bad: Interval | None = None

    def __post_init__(self) -> None:
        self._phase = Phase.FREE if self.rate == math.inf else Phase.HELD

    def turn(self, now_s: float, size: int) -> float:
        """Wait for the end of the last chunk's share of time."""
        self._recover(now_s)
        start = max(now_s, self._next_s)
        self._next_s = start + size / self.rate
        return start - now_s

    def done(self, now_s: float, size: int, latency_s: float) -> None:
        """Count a write; judge the interval once it is full."""
        began_s = now_s - latency_s
        if began_s - self._last_s > IDLE_S:
            self._interval = self._bad = None
        self._last_s = now_s
        interval = self._interval
        if interval is None:
            interval = self._interval = Interval(self._judged_s if began_s < self._judged_s + LENGTH_S else began_s)
        if began_s < self._set_s:
            interval.count(now_s, size)  # it began at another rate
        else:
            interval.add(now_s, size, latency_s)
        if interval.full:
            self._interval, self._judged_s = None, now_s
            self._judge(interval)

    def stalled(self, now_s: float, share: float) -> None:
        """Yield while others wait. PSI does not tell disks apart: only a copy to a slow one heeds it."""
        if share > STALLED_SHARE:
            self._yield(now_s)

    def _judge(self, interval: Interval) -> None:
        usual_s = self.usual_s if self.usual_s is not None else interval.least_s
        self.usual_s = min(interval.least_s, usual_s * CREEP)
        late = interval.late(usual_s)
        if self._phase is not Phase.HELD:
            late = late and interval.worst_s >= HELD_UP * interval.elapsed_s
        before, self._bad = self._bad, interval if late or interval.busy else None
        if self._bad is None:
            self._go_on(interval)
        elif self._phase is Phase.FREE:
            self._suspect(interval, interval.speed)
        elif self._phase is Phase.SUSPECT:
            self._confirm(interval)
        elif self._phase is Phase.TEST and interval.speed >= FAILED_SHARE * self.capacity:
            self._fail(min(self.capacity, interval.speed), interval.end_s)
        elif before:
            before.join(interval)
            if self._phase is Phase.TEST:
                self._fail(before.speed, interval.end_s)
            else:
                self._give_way(before, busy=interval.busy)

    def _go_on(self, interval: Interval) -> None:
        """Draw the conclusion from an interval without trouble."""
        match self._phase:
            case Phase.SUSPECT:
                self._approach()
            case Phase.HELD:
                self._trust(interval)
            case Phase.TEST:
                self._push(interval)

    def _suspect(self, bad: Interval, speed: float) -> None:
        """Write on at about *speed*, to see whether *bad* was the only one."""
        self._phase, self._suspected, self._set_s = Phase.SUSPECT, speed, bad.end_s
        # A disk that is slow all along is known by now; only a throttle has to be approached.
        self.rate = max(LEAST_RATE, (GENTLE if bad.uneven else PUSH) * speed)

    def _approach(self) -> None:
        """Write more, or as much as there is."""
        if self.rate >= BEYOND * self._suspected:
            self._phase, self.rate = Phase.FREE, math.inf
        else:
            self.rate *= STEP

    def _confirm(self, bad: Interval) -> None:
        """Take a second bad interval for a limit, unless it agrees with none."""
        if bad.speed < HELPED * self.rate:
            self._suspect(bad, math.sqrt(self._suspected * bad.speed))
            return
        if bad.end_s - self._tested_s > FORGOTTEN * self._trust_s:
            self._trust_s = TRUST_S
            self._meet(bad.speed, bad.end_s)
        else:
            self._fail(bad.speed, bad.end_s)

    def _trust(self, interval: Interval) -> None:
        """Count time without trouble; after enough of it, test the limit."""
        self._good_s += interval.elapsed_s
        if self._good_s >= max(self._trust_s, SLOW_TRUST_S if interval.slow else 0.0):
            self._phase, self.rate, self._excess = Phase.TEST, PUSH * self.capacity, 0.0

    def _push(self, interval: Interval) -> None:
        """Count what was written beyond the known speed; after enough of it, see how far that goes."""
        self._excess = max(0.0, self._excess + interval.size - self.capacity * interval.elapsed_s)
        if self._excess >= EXCESS_S * self.capacity:
            self._phase, self._suspected, self._tested_s = Phase.SUSPECT, self.capacity, interval.end_s
            self._approach()

    def _fail(self, capacity: float, now_s: float) -> None:
        """Meet a limit that was known, and wait longer until it is tested again."""
        self._trust_s = min(TRUST_LIMIT_S, self._trust_s * DISTRUST)
        self._meet(capacity, now_s)

    def _meet(self, capacity: float, now_s: float) -> None:
        """Take *capacity* for all that the disk can do, and begin again below it."""
        self._phase, self.capacity, self.usual_s = Phase.HELD, capacity, None
        self._interval = self._bad = None
        self._set_s, self._good_s = now_s, 0.0
        self._next_s = max(self._next_s, now_s + REPAY_S)
        self._cut(SHARE * capacity, now_s)

    def _give_way(self, bad: Interval, *, busy: bool) -> None:
        """Draw the conclusion from bad intervals in a row, *bad* in all, below a limit."""
        if busy and bad.elapsed_s >= LASTING_S:
            self._meet(max(bad.speed, self.capacity * LOSS), bad.end_s)
        elif busy:
            self._bad = bad
            if not bad.dented:
                bad.dented = True
                self._cut(self.rate * DENT, bad.end_s)
        elif bad.speed >= NEAR * self.rate:
            self.capacity *= LOWER
            self._cut(self.rate * DENT, bad.end_s)
        else:
            self._yield(bad.end_s)

    def _yield(self, now_s: float) -> None:
        """Back off for others, seldom."""
        if self._phase in (Phase.HELD, Phase.TEST) and now_s - self._yielded_s > YIELD_EVERY_S:
            self._phase, self._yielded_s, self._good_s = Phase.HELD, now_s, 0.0
            self._cut(self.rate * BACK_OFF, now_s)

    def _cut(self, rate: float, now_s: float) -> None:
        self.rate = max(rate, LEAST_RATE)
        self.slow_downs += 1
        self._grown_s = now_s

    def _recover(self, now_s: float) -> None:
        # Time in which nothing is written shows nothing: it must not end in a burst.
        elapsed_s = min(max(0.0, now_s - self._grown_s), IDLE_S)
        self._grown_s = now_s
        top = TOP_SHARE * self.capacity
        if self._phase is Phase.HELD and self.rate < top:
            self.rate = min(top, self.rate + RECOVERY * self.capacity * elapsed_s)
