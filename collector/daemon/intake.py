"""From markers to work: the ledger remembers each, admission decides, the queue waits here."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import structlog

from collector.archive import layout
from collector.archive.ledger import Entry, Ledger
from collector.daemon.control import Client
from collector.daemon.loop import Loop
from collector.daemon.messages import Reply, RunRequest
from collector.model.admission import Admission, Own, Ruling
from collector.model.case import Case, Fate
from collector.model.errors import CollectorError, PressureError
from collector.model.incident import IncidentState
from collector.model.marker import Marker, MarkerKind
from collector.pipeline.generation import Generation
from collector.pipeline.run_types import RunOutcome
from collector.pipeline.steps import Pipeline, select_steps, steps_for
from collector.triggers.manual import manual_marker

UNIT = "collector.service"
TIDY_S = 60.0
MAX_REQUESTS = 16
MAX_TRIES = 2
"""A marker whose incident was killed before anything of it was on disk is tried once more."""

DISPLACED = "a newer marker of the same executable took its place"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a run by hand asked for: its steps, and who waits for the end."""

    pipeline: Pipeline
    client: Client


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A case whose turn it is."""

    case: Case
    pipeline: Pipeline
    client: Client | None

    @property
    def markers(self) -> tuple[Marker, ...]:
        """All markers of the case, those included that joined meanwhile."""
        return tuple(self.case.markers)


class Intake:
    """
    The way in.

    Args:
        generation: The configuration in force.
        loop: For the timer of cases that wait.
        wake: Called when `next` may have something to return.
        own_pids: Returns the collector's own processes, past ones included; asked anew for each marker, since
            workers come and go at any time, in an incident too.
    """

    def __init__(
        self, generation: Generation, loop: Loop, wake: Callable[[], None], own_pids: Callable[[], frozenset[int]]
    ) -> None:
        self._loop = loop
        self._wake = wake
        self._own_pids = own_pids
        self._generation = generation
        self._sealed: Mapping[str, Fate] = {}
        self._requests: dict[int, Request] = {}
        self._cancel: Callable[[], None] = lambda: None
        self._ledger = Ledger(os.path.join(generation.settings.archive, layout.LEDGER))
        if self._ledger.problem:
            log.error("ledger.failed", error=self._ledger.problem, hint="markers are kept in memory until it works")
        self._told_problem = self._ledger.problem
        settings = generation.loaded.config.storm
        self._admission = Admission(settings)
        longest_s = max(budget.window_s for budget in (settings.per_executable, settings.per_uid, settings.total))
        self._admission.restore(self._ledger.spent(window_s=longest_s, now_s=time.monotonic()))
        self._loop.call_later(TIDY_S, self._tidy)

    @property
    def queued(self) -> int:
        """Cases that wait for their turn, and markers that wait for a budget."""
        return self._admission.queued + self._admission.held

    @property
    def problem(self) -> str | None:
        """Why the ledger's file is not in use."""
        return self._ledger.problem

    def batch(self) -> AbstractContextManager[None]:
        """Enter all markers offered inside in one transaction."""
        return self._ledger.batch()

    def remember(self, key: str, text: str) -> None:
        """Store a trigger's small text."""
        self._ledger.remember(key, text)

    def recall(self, key: str) -> str | None:
        """Read a trigger's small text back."""
        return self._ledger.recall(key)

    def fates(self) -> dict[str, int]:
        """Return how many markers met which fate, ever."""
        return self._ledger.counts()

    def lost(self, more: dict[str, int]) -> dict[str, int]:
        """Add to the crashes that triggers report as lost; return all, ever."""
        for trigger, count in more.items():
            self._ledger.add_lost(trigger, count)
            log.warning("markers.lost", trigger=trigger, count=count)
        return self._ledger.lost()

    def configure(self, generation: Generation) -> None:
        """Let another generation of the configuration count from now on."""
        self._generation = generation
        self._admission.configure(generation.loaded.config.storm)

    def resume(self, sealed: Mapping[str, IncidentState]) -> None:
        """
        Take up what an earlier run recorded and did not finish.

        Args:
            sealed: The incidents of killed runs that were sealed just now, and their states.
        """
        self._sealed = {incident: fate_of(state) for incident, state in sealed.items()}
        self._resume_all(self._ledger.pending())

    def offer(self, marker: Marker, pipeline: str) -> None:
        """Take a marker from a trigger."""
        if self._ledger.seen(marker) is None:
            self._rule(self._ledger.record(marker, pipeline=pipeline), marker, pipeline)
            self._schedule()

    def by_hand(self, request: RunRequest, client: Client) -> None:
        """Take a run by hand: it goes before everything that waits; *client* is told if it cannot be had."""
        marker = manual_marker(request.reason, request.processes, uid=client.uid)
        try:
            pipeline = steps_for(select_steps(self._generation.pipeline(request.pipeline), request.only), marker)
            if len(self._requests) >= MAX_REQUESTS:
                hint = "`collector status` shows the queue"
                raise PressureError(f"{MAX_REQUESTS} runs by hand wait already", hint=hint)
        except CollectorError as exc:
            client.end(Reply(exit_code=exc.exit_code, message=str(exc), hint=exc.hint))
            return
        number = self._ledger.record(marker, pipeline=pipeline.name)
        self._requests[number] = Request(pipeline=pipeline, client=client)
        self._rule(number, marker, pipeline.name)
        self._schedule()

    def next(self) -> Work | None:
        """Return the next case to run; ``None`` if there is none that may run now."""
        while (case := self._admission.next(time.monotonic())) is not None:
            request = self._requests.pop(case.id, None)
            if request is not None:
                return Work(case=case, pipeline=request.pipeline, client=request.client)
            pipeline = self._generation.pipelines.get(case.pipeline)
            if pipeline is not None:
                return Work(case=case, pipeline=steps_for(pipeline, case.marker), client=None)
            self._end(case, Fate.FAILED, None, f"there is no pipeline {case.pipeline!r} any more", 0)
        self._schedule()
        return None

    def begun(self, work: Work, incident: str) -> None:
        """Take note that *incident* is about to be opened."""
        work.case.incident = incident
        self._ledger.begin(work.case.id, incident)

    def finished(self, work: Work, outcome: RunOutcome) -> None:
        """Take note of how it ended."""
        fate = Fate.FAILED
        if outcome.incident is not None:
            fate = fate_of(outcome.state)
        self._end(work.case, fate, outcome.incident, outcome.reason, outcome.size_bytes)

    def close(self) -> None:
        """Let go of the ledger; what waits is pending in it."""
        self._ledger.close()

    def _rule(self, number: int, marker: Marker, pipeline: str) -> None:
        self._admission.own = Own(pids=self._own_pids(), units=frozenset({UNIT}))
        self._enter(number, marker, self._admission.offer(number, marker, pipeline=pipeline, now_s=time.monotonic()))

    def _enter(self, number: int, marker: Marker, ruling: Ruling) -> None:
        """Write down what was decided about a marker."""
        self._ledger.decide(
            number, ruling.fate, reason=ruling.reason, case=ruling.case.id if ruling.case is not None else None
        )
        for displaced in ruling.displaced:
            self._ledger.decide(displaced, Fate.SUPPRESSED, reason=DISPLACED)
        log.info(
            "marker.ruled",
            fate=str(ruling.fate),
            trigger=marker.trigger,
            pid=marker.process.pid if marker.process else None,
            comm=marker.comm,
            uid=marker.uid,
            core=marker.core.path if marker.core else None,
            reason=ruling.reason or marker.reason,
        )

    def _resume_all(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._resume(entry)
        for incident, fate in self._sealed.items():
            self._ledger.recovered(incident, fate)
        self._schedule()

    def _resume(self, entry: Entry) -> None:
        """Retry a marker once, unless its incident stands in the archive, or nobody waits for it any more."""
        archive = self._generation.settings.archive
        if entry.incident is not None and self._sealed.get(entry.incident) is Fate.INTERRUPTED:
            self._ledger.finish(entry.id, Fate.INTERRUPTED, incident=entry.incident, reason="the daemon was killed")
        elif entry.incident is not None and os.path.exists(os.path.join(archive, entry.incident)):
            self._ledger.finish(entry.id, Fate.COLLECTED, incident=entry.incident, reason="")
        elif entry.marker.kind is MarkerKind.MANUAL:  # to ask again is easy; which steps it asked for is gone
            self._ledger.finish(entry.id, Fate.FAILED, incident=None, reason="the daemon ended before it was done")
        elif entry.tries >= MAX_TRIES:
            self._ledger.finish(entry.id, Fate.FAILED, incident=None, reason=f"tried {entry.tries} times")
        elif entry.fate is Fate.RECORDED:  # nothing was decided yet
            self._rule(entry.id, entry.marker, entry.pipeline)
        else:
            markers = (entry.marker, *self._ledger.joined(entry.id))
            now_s = time.monotonic()
            ruling = self._admission.resume(entry.id, markers, pipeline=entry.pipeline, now_s=now_s)
            self._enter(entry.id, entry.marker, ruling)

    def _end(self, case: Case, fate: Fate, incident: str | None, reason: str, size_bytes: int) -> None:
        self._admission.finished(case, incident=incident, size_bytes=size_bytes)
        self._ledger.finish(case.id, fate, incident=incident, reason=reason, size_bytes=size_bytes)

    def _schedule(self) -> None:
        """Wake up when the next case may run: at once if one may run now."""
        self._cancel()
        due_s = self._admission.due_s(time.monotonic())
        if due_s is not None:
            self._cancel = self._loop.call_at(due_s, self._wake)

    def _tidy(self) -> None:
        before = self._ledger.problem
        self._ledger.tidy(idle=self._admission.idle)
        if (problem := self._ledger.problem) is None and before is not None:
            log.info("ledger.recovered")
            self._resume_all(self._ledger.regained())
        elif problem is not None and self._told_problem is None:
            log.error("ledger.failed", error=problem, hint="markers are kept in memory until it works")
        self._told_problem = problem
        self._loop.call_later(TIDY_S, self._tidy)


def fate_of(state: IncidentState | None) -> Fate:
    """Return what an incident's state means for its markers."""
    return Fate.INTERRUPTED if state is IncidentState.INTERRUPTED else Fate.COLLECTED
