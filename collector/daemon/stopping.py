"""
How the daemon ends.

Stopped by hand, it first lets the incidents under way finish, for as long as ``runtime.stop_grace`` allows; what has
not finished then is left as it is, for the next start to continue. A shutdown of the machine, or a second signal, seals
it at once: the next start would be too late for it, or may never come.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from collector.daemon.journal import get_logger
from collector.daemon.loop import Loop
from collector.daemon.machine_state import goes_down
from collector.daemon.sdnotify import ServiceManager
from collector.runner.pool import Pool

SEALING_S = 20.0
"""How long a running step may go on once incidents are sealed at once."""

LOOK_S = 5.0
"""Interval at which systemd is told that the stop goes on, and asked whether the machine goes down meanwhile."""

EXTEND_S = 30.0
"""For how long systemd waits for the next such message, beyond the unit's ``TimeoutStopSec=``."""

log = get_logger()


class Stopping:
    """
    The end of the daemon, once it has begun.

    Args:
        busy: Returns whether an incident is under way, which must end first.
        handing_over: Returns whether a worker runs the program that takes an incident over.
        running: Returns the ids of the incidents under way.
        grace_s: Returns ``runtime.stop_grace`` of the configuration in force, in seconds.
        leave: Called once, when it begins: nothing is admitted any more.
    """

    def __init__(
        self,
        *,
        loop: Loop,
        pool: Pool,
        manager: ServiceManager,
        busy: Callable[[], bool],
        handing_over: Callable[[], bool],
        running: Callable[[], tuple[str, ...]],
        grace_s: Callable[[], float],
        leave: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._manager = manager
        self._busy = busy
        self._handing_over = handing_over
        self._running = running
        self._grace_s = grace_s
        self._leave = leave
        self._until_s: float | None = None

    @property
    def begun(self) -> bool:
        return self._until_s is not None

    @property
    def ending(self) -> bool:
        """Whether nothing more begins: also a daemon that is stopped before it watches ends so."""
        return self.begun or self._pool.stopping

    def signalled(self) -> None:
        """Begin to stop; the second time, seal at once what is under way."""
        if self._until_s is not None:
            self.seal("a second signal")
            return
        grace_s = self._grace_s()
        self._until_s = time.monotonic() + grace_s
        log.info("daemon.stopping", running=list(self._running()), grace_s=grace_s)
        self._manager.stopping()
        self._leave()
        if self._busy():
            self._loop.call_later(grace_s, self._out_of_time)
            self._look()
        else:
            self.end_if_idle()

    def end_if_idle(self) -> None:
        """End the loop once no incident is under way, and no program that takes one over."""
        if self._busy():
            return
        if self._handing_over():  # it is tried again after the next start
            self._pool.stop(time.monotonic() + SEALING_S)
        else:
            self._loop.stop()

    def seal(self, why: str) -> None:
        """End what is under way at its next chunk, and seal it."""
        if not self._pool.stopping:
            log.warning("daemon.sealing", running=list(self._running()), reason=why)
            self._pool.stop(time.monotonic() + SEALING_S)
            self._manager.status(f"stopping: sealing {_named(self._running())} ({why})")

    def ended(self) -> None:
        """Tell systemd, which goes on showing the last line that it was told."""
        running = self._running()
        self._manager.status("stopped" + (f"; the next start continues {_named(running)}" if running else ""))

    def _look(self) -> None:
        """Tell systemd that this goes on, and ask whether the machine goes down."""
        self._manager.extend(EXTEND_S)
        if not self._pool.stopping:
            self._manager.status(self._status())
            self._loop.spawn(goes_down(), self._seal_if_down)
        self._loop.call_later(LOOK_S, self._look)

    def _seal_if_down(self, down: bool) -> None:
        if down:
            self.seal("the machine is shut down")

    def _out_of_time(self) -> None:
        if not self._pool.stopping:
            log.warning("daemon.left", running=list(self._running()), hint="the next start continues it")
            self._loop.stop()

    def _status(self) -> str:
        left_s = max(0.0, (self._until_s or 0.0) - time.monotonic())
        return (
            f"stopping: up to {left_s:.0f} s more for {_named(self._running())};"
            " `systemctl kill -s TERM collector` seals it now"
        )


def _named(running: tuple[str, ...]) -> str:
    more = f" and {len(running) - 1} more" if len(running) > 1 else ""
    return f"{running[0]}{more}" if running else "nothing"
