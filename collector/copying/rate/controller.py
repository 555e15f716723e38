"""The pace that learns the disk: full speed where nobody notices, else less than the disk can do."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from collector.copying.rate.flush_batch import WriteCache
from collector.copying.rate.window import LENGTH_S, MIB, Interval

GENTLE = 2 / 3
STEP = 1.7
HALF = 0.5
BEYOND = 3.0
"""After an interval with a late write the rate is so much of what it wrote, then grows by steps, until so many times as
much is written without another: a second one meets a limit by little. At full speed it would hold everybody for most
of a tenth of a second once more."""

AGREEING = 0.3
"""A second bad interval that wrote less than this share of its rate was a moment's trouble like the first, no limit."""

SHARE = 0.7
TOP_SHARE = 0.92
RECOVERY = 0.025
"""Share of the disk's speed that is taken at first, that it grows to, and that it grows by per second. Just above a
throttle's limit nobody's writes are on time: so another process's fsync took 39 ms at the 99th percentile, idle 2.9."""

REPAY_S = 0.1
"""Pause after a limit was met: what was written beyond it is missing from the next tenth of a second's budget. After
half of that, another write was late after six of twelve tests."""

PUSH = 1.2
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

ALIKE = 1.5
FORGOTTEN = 10.0
"""A limit that is met again after a test is the last one's confirmation, unless it is another one by a larger factor,
or that was so many times the last trust ago."""

NEAR = 0.75
LOWER = 0.9
LOWERED = 4
"""If more than that share of the rate is written, but late, the limit may be lower than it looked: four steps at most,
for what goes on being late then is not so because of this copy."""

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

LEAST_RATE = 2 * MIB


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

    An interval of writes is bad if it kept a slow disk busy, or if a write in it was late. At full speed one is a
    hiccup, and two show a limit. Then the rate is `SHARE` of what the disk did, and grows to `TOP_SHARE`. Tests see,
    ever more seldom, whether the limit still stands. Pauses of a second or more count for nothing.

    Attributes:
        rate: Bytes per second; infinite for full speed.
        capacity: What the disk was last seen to do, in bytes per second.
        slow_downs: How often the rate was cut.
        cache: How much may lie in the disk's write cache.
    """

    rate: float = math.inf
    capacity: float = 0.0
    slow_downs: int = 0
    cache: WriteCache = field(default_factory=WriteCache)
    _phase: Phase = field(init=False)
    _next_s: float = 0.0
    _grown_s: float = 0.0
    _last_s: float = 0.0
    _judged_s: float = 0.0
    _yielded_s: float = -YIELD_EVERY_S
    _trust_s: float = TRUST_S
    _tested_s: float = float("-inf")
    _good_s: float = 0.0
    _lowered: int = 0
    _behind: int = 0
    _suspected: float = 0.0
    _pushed: Interval | None = None
    _interval: Interval | None = None
    _good: Interval | None = None
    _bad: Interval | None = None

    def __post_init__(self) -> None:
        self._phase = Phase.FREE if self.rate == math.inf else Phase.HELD

    def turn(self, now_s: float, size: int) -> float:
        """Wait for the end of the last chunk's share of time."""
        self._recover(now_s)
        start = max(now_s, self._next_s)
        self._next_s = start + size / self.rate
        self._behind += start == now_s
        return start - now_s

    def done(self, now_s: float, size: int, latency_s: float) -> None:
        """Count a write; judge the interval once it is full."""
        began_s = now_s - latency_s
        if began_s - self._last_s > IDLE_S:
            self._interval = self._good = self._bad = None
            if self._phase is Phase.SUSPECT:
                self._release()
        self._last_s = now_s
        interval = self._open(began_s)
        interval.add(now_s, size, latency_s)
        if interval.full or (self._phase is Phase.FREE and interval.blocked):
            self._interval, self._judged_s = None, now_s
            self._judge(interval)

    def flushed(self, now_s: float, latency_s: float) -> None:
        """Count what a flush of the disk's write cache drained: what the disk put off, it does now."""
        self._last_s = now_s
        self._open(now_s - latency_s).wait(now_s, latency_s, self.cache.flushed(now_s, latency_s))

    def stalled(self, now_s: float, share: float) -> None:
        """Yield while others wait. PSI does not tell disks apart: only a copy that is held anyway heeds it."""
        if share > STALLED_SHARE:
            self._yield(now_s)

    def _open(self, began_s: float) -> Interval:
        """Return the interval that is under way, or one that begins with what began at *began_s*."""
        if self._interval is None:
            self._interval = Interval(max(began_s, self._judged_s))
        return self._interval

    def _judge(self, interval: Interval) -> None:
        # Where writes side by side keep up with the rate, a disk may take as long as it likes for each.
        behind = 2 * self._behind >= interval.chunks or interval.speed < NEAR * self.rate
        self._behind = 0
        bad = interval.late or (interval.busy and behind)
        before, self._bad = self._bad, interval if bad else None
        good, self._good = self._good, None if bad else interval
        if self._pushed is not None:
            self._pushed.join(interval)
        if not bad:
            self._go_on(interval)
        elif self._phase is Phase.FREE:
            self._suspect(interval.speed if interval.full else recent_speed(good, interval))
        elif self._phase is Phase.SUSPECT:
            self._confirm(interval)
        elif self._phase is Phase.TEST and interval.speed >= FAILED_SHARE * self.capacity:
            self._fail(self.capacity, interval)
        elif before:
            before.join(interval)
            if self._phase is Phase.TEST:
                self._fail(before.speed, interval)
            else:
                self._give_way(before)

    def _go_on(self, interval: Interval) -> None:
        """Draw the conclusion from an interval without trouble."""
        match self._phase:
            case Phase.SUSPECT if interval.speed >= HALF * self.rate:
                self._approach()
            case Phase.HELD:
                self._trust(interval)
            case Phase.TEST if self._pushed:
                self._push(self._pushed)

    def _suspect(self, speed: float) -> None:
        """Begin again below *speed*, to see whether the one bad interval was the only one."""
        self._phase, self._suspected, self.rate = Phase.SUSPECT, speed, max(LEAST_RATE, GENTLE * speed)

    def _approach(self) -> None:
        """Write more, or as much as there is."""
        if self.rate >= BEYOND * self._suspected:
            self._release()
        else:
            self.rate *= STEP

    def _release(self) -> None:
        self._phase, self.rate, self._pushed = Phase.FREE, math.inf, None

    def _confirm(self, bad: Interval) -> None:
        """Take a second bad interval for a limit; after a test, with what the throttle had saved up before."""
        if bad.speed < AGREEING * self.rate:  # a moment's trouble again, and no limit that the first one saw
            self._suspect(math.sqrt(self._suspected * bad.speed))
            return
        self._lowered = 0
        speed = bad.speed if self._pushed is None else min(bad.speed, self._pushed.speed)
        alike = self.capacity / ALIKE <= speed <= self.capacity * ALIKE
        if alike and bad.end_s - self._tested_s <= FORGOTTEN * self._trust_s:
            self._fail(speed, bad)
        else:
            self._trust_s = TRUST_S
            self._meet(speed, bad)

    def _trust(self, interval: Interval) -> None:
        """Count time without trouble; after enough of it, test the limit."""
        self._good_s += interval.elapsed_s
        if self._good_s >= max(self._trust_s, SLOW_TRUST_S if interval.slow else 0.0):
            self._phase, self.rate, self._pushed = Phase.TEST, PUSH * self.capacity, Interval(interval.end_s)

    def _push(self, pushed: Interval) -> None:
        """After enough was written beyond the known speed, see how far that goes."""
        if pushed.size >= self.capacity * (pushed.elapsed_s + EXCESS_S):
            self._phase, self._suspected, self._tested_s = Phase.SUSPECT, self.capacity, pushed.end_s
            self._approach()

    def _fail(self, capacity: float, bad: Interval) -> None:
        """Meet a limit that was known, and wait longer until it is tested again."""
        self._trust_s = min(TRUST_LIMIT_S, self._trust_s * DISTRUST)
        self._meet(capacity, bad)

    def _meet(self, capacity: float, bad: Interval) -> None:
        """Take *capacity* for all that the disk can do, and begin again below it, once what waits there is done."""
        self._phase, self.capacity = Phase.HELD, max(LEAST_RATE, capacity)
        self._interval, self._bad, self._pushed, self._good_s = None, None, None, 0.0
        self._next_s = max(self._next_s, bad.end_s + max(REPAY_S, bad.worst_s))
        self._cut(SHARE * self.capacity, bad.end_s)

    def _give_way(self, bad: Interval) -> None:
        """Draw the conclusion from bad intervals in a row, *bad* in all, below a limit."""
        self._bad = bad
        if bad.speed >= NEAR * self.rate:
            if self._lowered < LOWERED:
                self._lowered += 1
                self.capacity = max(LEAST_RATE, self.capacity * LOWER)
                self._cut(self.rate * LOWER, bad.end_s)
        elif bad.elapsed_s >= LASTING_S:
            self._lowered = 0
            self._meet(max(bad.speed, self.capacity * LOSS), bad)

    def _yield(self, now_s: float) -> None:
        """Back off for others, seldom."""
        if self._phase in (Phase.HELD, Phase.TEST) and now_s - self._yielded_s > YIELD_EVERY_S:
            self._phase, self._yielded_s, self._good_s = Phase.HELD, now_s, 0.0
            self._cut(min(self.rate, self.capacity) * BACK_OFF, now_s)

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


def recent_speed(good: Interval | None, bad: Interval) -> float:
    """Return the speed over a tenth of a second or two: a throttle passes at once what it has saved up."""
    if good is None:
        return bad.size / LENGTH_S
    good.join(bad)
    return good.speed
