"""Probes that are started before memory is short."""

from __future__ import annotations

import os
import signal

from benchmarks import stall


class WaitingProber(stall.Prober):
    """A prober whose process starts before memory is short, and waits until it is told to begin."""

    _pid = 0

    def begin(self) -> None:
        os.write(self._stop, b"begin")

    def stop(self) -> dict[str, float]:
        found = super().stop()
        self._pid = 0
        return found

    def dismiss(self) -> None:
        """Kill it without an answer if it is still running."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            for end in (self._stop, self._told):
                os.close(end)
            self._pid = 0

    def _run(self, told: int, after_s: float) -> list[float]:
        for number in (signal.SIGINT, signal.SIGTERM):  # what is to be put back is the benchmark's own affair
            signal.signal(number, signal.SIG_DFL)
        os.read(told, len(b"begin"))
        return super()._run(told, after_s)
