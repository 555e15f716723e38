"""Learns a disk's speed: full speed where nobody notices, otherwise less than the disk can do."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field

from collector.copying.rate.flush_batch import FlushBatch
from collector.copying.rate.window import LENGTH_S, MIB, Window

GENTLE = 2 / 3
STEP = 1.7
CLEARED = 3.0
"""After a window with a late write the rate is this share of the window's speed, then grows by this step per window
until it is this many times that speed without another late write. So a second window exceeds a limit by little: at full
speed it would hold everybody up for most of another tenth of a second."""

AGREEING = 0.3
"""A second bad window that wrote less than this share of its rate was a momentary stall like the first, not a limit."""

SHARE = 0.7
TOP_SHARE = 0.92
RECOVERY = 0.025
"""Share of the disk's speed used at first, the share it grows to, and the growth per second. Just above a throttle's
limit nobody's writes are on time: there another process's fsync took 39 ms at the 99th percentile, 2.9 ms on an idle
disk."""

REPAY_S = 0.1
"""Pause after meeting a limit: what was written beyond it is missing from the next tenth of a second's budget. After a
pause of half that length another write was late in six of twelve tests."""

PROBE = 1.2
PROBE_EXCESS_S = 0.25
FAILED_SHARE = 0.8
"""A probe writes this many times the known speed, until the excess equals this many seconds at that speed: a throttle
saves up two slices of a tenth of a second. It fails at the first late write, provided that the disk reached this share
of its known speed meanwhile; below that it was a momentary stall."""

PROBE_AFTER_S = 0.6
PROBE_SLOW_AFTER_S = 4.0
PROBE_BACKOFF = 8.0
PROBE_AFTER_MAX_S = 80.0
"""Time of untroubled writing before the first probe, and the least on a disk that looks slow. Each probe that fails
multiplies it by the backoff, up to the maximum: most stalls are over in a moment, a throttle stays, and every probe
costs others one late write."""

NEAR = 0.75
LOWER = 0.9
MAX_LOWERED = 4
"""If writes are late although more than this share of the rate is written, the limit may be lower than it looked. The
rate is lowered by this factor, at most four times: what is still late then is not late because of this copy."""

LASTING_S = 1.0
LOSS = 0.5
"""A stall that lasts this long is the disk's new speed, but counts as no less than this share of the old one."""

IDLE_S = 1.0
"""Writes further apart than this are judged separately."""

MIN_RATE = 2 * MIB


class Phase(enum.Enum):
    """What is known about the disk."""

    UNLIMITED = "no noticeable limit"
    SUSPECT = "one window was bad; another one would show a limit"
    LIMITED = "there is a limit: stay below it"
    PROBING = "there was a limit: see whether it still exists"


@dataclass(slots=True)
class Controller:
    """
    Full speed on a disk that is fast enough; on a slower one, or behind a throttle, a share of its speed.

    A window is bad if it kept a slow disk busy or contained a late write. At full speed one bad window is a hiccup; two
    show a limit. Then the rate is `SHARE` of what the disk did, and grows to `TOP_SHARE`. Probes check, less and less
    often, whether the limit still exists. Pauses of a second or more are ignored.

    Attributes:
        rate: Bytes per second; infinite for full speed.
        capacity: The disk's last known speed in bytes per second.
        slow_downs: How often the rate was cut.
        flush_batch: How much may lie in the disk's write cache.
    """

    rate: float = math.inf
    capacity: float = 0.0
    slow_downs: int = 0
    probe_after_s: float = PROBE_AFTER_S
    flush_batch: FlushBatch = field(default_factory=FlushBatch)
    _phase: Phase = field(init=False)
    _next_s: float = field(init=False, default=0.0)
    _grown_s: float = field(init=False, default=0.0)
    _last_s: float = field(init=False, default=0.0)
    _judged_s: float = field(init=False, default=0.0)
    _good_s: float = field(init=False, default=0.0)
    _lowered: int = field(init=False, default=0)
    _behind: int = field(init=False, default=0)
    _suspected: float = field(init=False, default=0.0)
    _probe: Window | None = field(init=False, default=None)
    _window: Window | None = field(init=False, default=None)
    _good: Window | None = field(init=False, default=None)
    _bad: Window | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._phase = Phase.UNLIMITED if self.rate == math.inf else Phase.LIMITED

    def reserve(self, now_s: float, size: int) -> float:
        """Reserve the time for *size* bytes; return how many seconds from *now_s* to wait before writing them."""
        self._recover(now_s)
        start_s = max(now_s, self._next_s)
        self._next_s = start_s + size / self.rate
        self._behind += start_s == now_s
        return start_s - now_s

    def record(self, now_s: float, size: int, latency_s: float) -> None:
        """Count a write that took *latency_s*; judge the window once it is full."""
        began_s = now_s - latency_s
        if began_s - self._last_s > IDLE_S:
            self._window = self._good = self._bad = None
            if self._phase is Phase.SUSPECT:
                self._release()
        self._last_s = now_s
        window = self._current_window(began_s)
        window.add(now_s, size, latency_s)
        if window.full or (self._phase is Phase.UNLIMITED and window.blocked):
            self._window, self._judged_s = None, now_s
            self._judge(window)

    def record_flush(self, now_s: float, latency_s: float) -> None:
        """Count what a flush of the disk's write cache drained: writes that the disk had put off until now."""
        self._last_s = now_s
        self._current_window(now_s - latency_s).add_flush(now_s, latency_s, self.flush_batch.record(now_s, latency_s))

    def _current_window(self, began_s: float) -> Window:
        if self._window is None:
            self._window = Window(max(began_s, self._judged_s))
        return self._window

    def _judge(self, window: Window) -> None:
        # Where concurrent writes keep up with the rate, a disk may take as long as it likes for each.
        behind = 2 * self._behind >= window.writes or window.speed < NEAR * self.rate
        self._behind = 0
        bad = window.late or (window.busy and behind)
        before, self._bad = self._bad, window if bad else None
        good, self._good = self._good, None if bad else window
        if self._probe is not None:
            self._probe.extend(window)
        if not bad:
            self._continue(window)
        elif self._phase is Phase.UNLIMITED:
            self._suspect(window.speed if window.full else recent_speed(good, window))
        elif self._phase is Phase.SUSPECT:
            self._confirm(window)
        elif self._phase is Phase.PROBING and window.speed >= FAILED_SHARE * self.capacity:
            self._fail_probe(self.capacity, window)
        elif before:
            before.extend(window)
            if self._phase is Phase.PROBING:
                self._fail_probe(before.speed, window)
            else:
                self._give_way(before)

    def _continue(self, window: Window) -> None:
        """Draw the conclusion from a good window."""
        match self._phase:
            case Phase.SUSPECT:
                self._approach()
            case Phase.LIMITED:
                self._count_good(window)
            case Phase.PROBING if self._probe:
                self._judge_probe(self._probe)

    def _suspect(self, speed: float) -> None:
        """Start again below *speed*, to see whether the one bad window was the only one."""
        self._phase, self._suspected, self.rate = Phase.SUSPECT, speed, max(MIN_RATE, GENTLE * speed)

    def _approach(self) -> None:
        if self.rate >= CLEARED * self._suspected:
            self._release()
        else:
            self.rate *= STEP

    def _release(self) -> None:
        self._phase, self.rate, self._probe = Phase.UNLIMITED, math.inf, None

    def _confirm(self, bad: Window) -> None:
        """Take a second bad window for a limit; after a probe, judge that by what it wrote as a whole as well."""
        if bad.speed < AGREEING * self.rate:  # another momentary stall, not the limit that the first one hinted at
            self._suspect(math.sqrt(self._suspected * bad.speed))
            return
        self._lowered = 0
        if self._probe is None:
            self.probe_after_s = PROBE_AFTER_S
            self._set_limit(bad.speed, bad)
        else:  # at first a throttle lets through what it has saved up
            self._fail_probe(min(bad.speed, self._probe.speed), bad)

    def _count_good(self, window: Window) -> None:
        """Start a probe after enough time without trouble."""
        self._good_s += window.elapsed_s
        if self._good_s >= max(self.probe_after_s, PROBE_SLOW_AFTER_S if window.slow else 0.0):
            self._phase, self.rate, self._probe = Phase.PROBING, PROBE * self.capacity, Window(window.end_s)

    def _judge_probe(self, probe: Window) -> None:
        """Once enough was written beyond the known speed, look for the new limit."""
        if probe.size >= self.capacity * (probe.elapsed_s + PROBE_EXCESS_S):
            self._phase, self._suspected = Phase.SUSPECT, self.capacity
            self._approach()

    def _fail_probe(self, capacity: float, bad: Window) -> None:
        self.probe_after_s = min(PROBE_AFTER_MAX_S, self.probe_after_s * PROBE_BACKOFF)
        self._set_limit(capacity, bad)

    def _set_limit(self, capacity: float, bad: Window) -> None:
        """Take *capacity* for the disk's speed, and start again below it once the writes that wait there are done."""
        self._phase, self.capacity = Phase.LIMITED, max(MIN_RATE, capacity)
        self._window, self._bad, self._probe, self._good_s = None, None, None, 0.0
        self._next_s = max(self._next_s, bad.end_s + max(REPAY_S, bad.worst_s))
        self._cut(SHARE * self.capacity, bad.end_s)

    def _give_way(self, bad: Window) -> None:
        """Draw the conclusion from consecutive bad windows, *bad* in all, below a known limit."""
        self._bad = bad
        if bad.speed >= NEAR * self.rate:
            if self._lowered < MAX_LOWERED:
                self._lowered += 1
                self.capacity = max(MIN_RATE, self.capacity * LOWER)
                self._cut(self.rate * LOWER, bad.end_s)
        elif bad.elapsed_s >= LASTING_S:
            self._lowered = 0
            self._set_limit(max(bad.speed, self.capacity * LOSS), bad)

    def _cut(self, rate: float, now_s: float) -> None:
        self.rate = max(rate, MIN_RATE)
        self.slow_downs += 1
        self._grown_s = now_s

    def _recover(self, now_s: float) -> None:
        # Time in which nothing is written proves nothing: it must not end in a burst.
        elapsed_s = min(max(0.0, now_s - self._grown_s), IDLE_S)
        self._grown_s = now_s
        top = TOP_SHARE * self.capacity
        if self._phase is Phase.LIMITED and self.rate < top:
            self.rate = min(top, self.rate + RECOVERY * self.capacity * elapsed_s)


def recent_speed(good: Window | None, bad: Window) -> float:
    """Return the speed over one or two tenths of a second: a throttle lets what it has saved up through immediately."""
    if good is None:
        return bad.size / LENGTH_S
    good.extend(bad)
    return good.speed
