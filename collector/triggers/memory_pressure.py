"""One light incident while the machine is short of memory, before the OOM killer removes the evidence."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from errno import EINVAL
from typing import ClassVar, Literal

import msgspec

from collector.host.clock import Moment, moment
from collector.host.memory import Meminfo, PsiTrigger
from collector.model.decode import MalformedError, decode
from collector.model.knowledge import NOTHING, Knowledge
from collector.model.marker import Marker, MarkerKind
from collector.model.units import Bytes, Seconds
from collector.triggers.base import TriggerContext, Watch

POLL_S = 1.0
RETRY_S = 30.0
STALL, WINDOW, HOUR = Seconds(0.3), Seconds(2.0), Seconds(3600.0)
THRESHOLD = Bytes(256 << 20)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPressure:
    """
    Watch the memory of the machine.

    Args:
        kind: ``some``: at least one task is stalled for memory; ``full``: all of them are.
        stall: Stall time within *window* that counts as pressure.
        window: 500ms to 10s; without CAP_SYS_RESOURCE a multiple of 2s.
        available: Where the kernel has no PSI, MemAvailable below this counts as pressure; checked every second.
        cooldown: Minimum time between two markers, across restarts.
    """

    name: ClassVar[str] = "memory_pressure"
    knows: ClassVar[Knowledge] = NOTHING
    kind: Literal["some", "full"] = "some"
    stall: Seconds = STALL
    window: Seconds = WINDOW
    available: Bytes = THRESHOLD
    cooldown: Seconds = HOUR

    def __post_init__(self) -> None:
        if not (0.5 <= self.window <= 10 and 0 < self.stall <= self.window):
            raise ValueError("the window must be 500ms to 10s, and the stall not longer than the window")

    def open(self, ctx: TriggerContext) -> MemoryPressureWatch:
        """Start watching; without PSI by polling."""
        watch = MemoryPressureWatch(self, ctx)
        watch.open_psi()
        return watch


@dataclass(slots=True)
class MemoryPressureWatch(Watch):
    """An opened `MemoryPressure`."""

    trigger: MemoryPressure
    ctx: TriggerContext
    psi: PsiTrigger | None = None
    poll_s: float | None = None
    degraded: str | None = None
    retry_s: float = 0.0
    """When to try PSI again, on the monotonic clock."""

    def open_psi(self) -> None:
        """Let the kernel watch; if it does not, check MemAvailable until it does."""
        self.retry_s = time.monotonic() + RETRY_S
        trigger = self.trigger
        try:
            self.psi = PsiTrigger(self.ctx.host, kind=trigger.kind, stall_s=trigger.stall, window_s=trigger.window)
        except OSError as exc:
            why = (
                "the window must be a multiple of 2s without CAP_SYS_RESOURCE" if exc.errno == EINVAL else exc.strerror
            )
            self.poll_s = POLL_S
            self.degraded = f"/proc/pressure/memory: {why}; MemAvailable is checked instead"
        else:
            self.poll_s = self.degraded = None

    def fileno(self) -> int:
        return self.psi.fileno() if self.psi is not None else -1

    def read(self) -> Iterator[Marker]:
        """Yield a marker for the threshold that was passed, unless the cooldown is not over."""
        if self.psi is None:
            return
        self.psi.clear()
        if self._is_due():
            stalled = f"{self.trigger.stall * 1000:g} ms of {self.trigger.window:g} s"
            yield self._marker(f"memory stall ({self.trigger.kind}) passed {stalled}")

    def poll(self) -> Iterator[Marker]:
        """Without PSI, yield a marker if MemAvailable is below the threshold, and try PSI again every 30 s."""
        if self.psi is None and time.monotonic() >= self.retry_s:
            self.open_psi()
        if self.psi is None:
            available_bytes = Meminfo(self.ctx.host).figures().get(b"MemAvailable", 1 << 62)
            if available_bytes < self.trigger.available and self._is_due():
                yield self._marker(
                    f"{available_bytes} bytes of memory are available, less than {self.trigger.available}"
                )

    def close(self) -> None:
        if self.psi is not None:
            self.psi.close()

    def _is_due(self) -> bool:
        """Return whether the cooldown is over, in running time; that of another boot is."""
        now = moment()
        with contextlib.suppress(MalformedError):
            last = decode(self.ctx.recall(f"{self.ctx.id}.last") or "", Moment)
            return last.boot_id != now.boot_id or now.boot_s - last.boot_s >= self.trigger.cooldown
        return True

    def _marker(self, reason: str) -> Marker:
        self.ctx.remember(f"{self.ctx.id}.last", msgspec.json.encode(moment()).decode())
        return Marker(kind=MarkerKind.PRESSURE, trigger=self.ctx.id, at_s=time.time(), reason=reason)
