"""The flight recorder in the daemon: a row at each period, and rounds over all processes by workers that are idle."""

from __future__ import annotations

import time
from collections.abc import Callable

from collector.daemon.journal import get_logger
from collector.daemon.loop import Loop
from collector.daemon.messages import Watched
from collector.model.incident import StepStatus
from collector.model.pressure import Distress
from collector.model.recording import COLUMNS, Recording, Second, read_second
from collector.model.top_processes import read_round
from collector.pressure.sampler import Sampler
from collector.runner import events
from collector.runner.pool import Pool
from collector.runner.protocol import VisitProcesses
from collector.runner.recorder import Recorder
from collector.runner.replies import Done
from collector.runner.worker_process import JobResult

VISIT_S = 3.0
"""Interval between two jobs of a round: one takes 3 ms of CPU, so that they take 0.1 % of a core at most."""

VISIT_TIMEOUT_S = 10.0
"""Nothing that is read can hang, but a machine that starves is slow."""

WATCHED_ROWS = 60
"""A minute at one row a second; as JSON at most 58 KiB, of the 64 that a message may have."""

log = get_logger()


class FlightRecorder:
    """
    Keeps the recording up to date; without one, it does nothing.

    Args:
        recording: Made before the workers were forked; ``None`` if it is off.
        archive: Path of the archive, whose disk is always shown.
        busy: Returns whether an incident is under way: then no process is visited.
    """

    def __init__(
        self,
        recording: Recording | None,
        *,
        loop: Loop,
        pool: Pool,
        sampler: Sampler,
        archive: str,
        busy: Callable[[], bool],
    ) -> None:
        self._loop = loop
        self._pool = pool
        self._sampler = sampler
        self._busy = busy
        self._recorder = Recorder(recording, sampler, archive, lambda: pool.living) if recording else None
        self._visit_at_s = self._round_at_s = 0.0
        self._visiting = False
        self._problem = ""

    def tick(self) -> None:
        """Write a row if it is time to, and have processes visited; to be called after each tick of the sampler."""
        if self._recorder is not None:
            self._recorder.tick()
            self._visit(self._recorder.recording)

    def mark(self) -> None:
        """Write a row now."""
        if self._recorder is not None:
            self._recorder.mark()

    def note(self, event: events.AnyEvent) -> None:
        if self._recorder is not None:
            self._recorder.note(event)

    def second(self) -> Second | None:
        """Return the newest row."""
        row = self._recorder.recording.seconds.last() if self._recorder else None
        return read_second(row) if row else None

    def watched(self, since_s: float) -> Watched:
        """Return the last `WATCHED_ROWS` as far as they are newer than *since_s* since boot, and the last round."""
        if self._recorder is None:
            return Watched(period_s=0.0, columns=(), seconds=())
        recording = self._recorder.recording
        last = recording.rounds.last()
        rows = recording.seconds.rows(newest=WATCHED_ROWS)
        return Watched(
            period_s=recording.settings.period_s,
            columns=tuple(column.name for column in COLUMNS),
            seconds=tuple(row for row in map(read_second, rows) if row.at_s > since_s),
            top=read_round(last) if last else None,
        )

    def _visit(self, recording: Recording) -> None:
        now_s = time.monotonic()
        starts = recording.state.offset == 0
        if self._visiting or now_s < (self._round_at_s if starts else self._visit_at_s):
            return
        if self._busy() or not self._pool.idle or self._sampler.distress is not Distress.CALM:
            return
        self._visit_at_s = now_s + VISIT_S
        if starts:
            self._round_at_s = now_s + recording.settings.round_s
        self._visiting = True
        task = self._pool.perform(VisitProcesses(), deadline_s=now_s + VISIT_TIMEOUT_S)
        self._loop.spawn(task, lambda result: self._visited(recording, result))

    def _visited(self, recording: Recording, result: JobResult) -> None:
        self._visiting = False
        if result.done.status is StepStatus.OK:
            if recording.state.offset == 0:
                recording.rounds.append(recording.state.row())
            return
        self._round_at_s = self._visit_at_s = time.monotonic() + recording.settings.round_s
        self._complain(result.done)

    def _complain(self, done: Done) -> None:
        if done.reason != self._problem:
            self._problem = done.reason
            log.warning("recorder.degraded", reason=f"no list of the largest processes: {done.reason}", hint=done.hint)
