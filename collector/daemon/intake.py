"""From markers to work: each is recorded in the ledger and ruled on by admission, which also holds the queue."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from collector.archive.ledger import Ledger
from collector.archive.ledger_entry import LedgerEntry
from collector.daemon.archive_space import archive_space
from collector.daemon.control import Client
from collector.daemon.counters import NOTE, Counters
from collector.daemon.earlier_run import EarlierRun, fate_of
from collector.daemon.holding import Holding
from collector.daemon.journal import get_logger
from collector.daemon.limits import Limits
from collector.daemon.loop import Loop
from collector.daemon.messages import Reply, RunRequest
from collector.daemon.ruling_record import RulingRecord
from collector.host.clock import boot_s
from collector.host.procfs import boot_ticks
from collector.model.admission import Admission
from collector.model.case import Case, Fate, owner_of
from collector.model.errors import CollectorError, PressureError
from collector.model.incident import IncidentState
from collector.model.marker import Marker, dump_ended, shortened
from collector.model.own_processes import UNIT, OwnProcesses
from collector.model.ruling import Ruling
from collector.pipeline.generation import Generation
from collector.pipeline.over_budget import beyond_budget
from collector.pipeline.steps import Pipeline, select_steps, steps_for
from collector.runner.replies import Done
from collector.triggers.manual import manual_marker

TIDY_S = 60.0
MAX_REQUESTS = 16
SEE_THE_QUEUE = "`collector status` shows the queue"
RESTARTED = "its dump was ended: the collector was started again"
"""Of a process that an earlier run held: it was let go when that run ended."""

log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A case that is due."""

    case: Case
    pipeline: Pipeline
    client: Client | None
    continues: str | None = None
    """The incident of an earlier run that was cut off, if this goes on with it."""

    @property
    def markers(self) -> tuple[Marker, ...]:
        """All markers of the case, including those that have joined since."""
        return tuple(self.case.markers)


class Intake:
    """
    Records, admits and queues markers.

    Args:
        ledger: The record of all markers.
        generation: The configuration in force.
        loop: For the timer of cases that wait.
        wake: Called when `next` may have something to return.
        own_pids: Returns the PIDs of the collector's processes, past ones included; called for each marker, since
            workers come and go at any time, even during an incident.
        limits: Told of every limit that is reached.
        holding: The crashed processes that wait for a ruling.
        counters: Told of every final fate, and of every incident.
    """

    def __init__(
        self,
        ledger: Ledger,
        generation: Generation,
        loop: Loop,
        wake: Callable[[], None],
        own_pids: Callable[[], frozenset[int]],
        *,
        limits: Limits,
        holding: Holding,
        counters: Counters,
    ) -> None:
        self._ledger = ledger
        self._loop = loop
        self._wake = wake
        self._own_pids = own_pids
        self._limits = limits
        self._holding = holding
        self._counters = counters
        counters.restore(ledger.recall(NOTE))
        self._rulings = RulingRecord(ledger=ledger, counters=counters, limits=limits, holding=holding)
        self._generation = generation
        self._earlier = EarlierRun(generation.settings.archive)
        self._manual_runs: dict[int, tuple[Pipeline, Client]] = {}
        self.drained_s: float | None = None
        """Since when, since the epoch, nothing more begins."""
        self._cancel: Callable[[], None] = lambda: None
        self._logged_problem: str | None = None
        self._log_problem()
        settings = generation.loaded.config.storm
        self._admission = Admission(settings, owners=generation.settings.owners)
        self._admission.restore(self._ledger.spent(window_s=settings.longest_window_s, now_s=boot_s()))
        self._loop.call_later(TIDY_S, self.tidy)

    @property
    def queued(self) -> int:
        """The number of cases that wait for their turn or for a budget."""
        return self._admission.queued + self._admission.held

    @property
    def draining(self) -> int:
        """The number of cases that wait for their turn, and need not wait for the end of a drain."""
        return self._admission.draining

    def drain(self, *, on: bool) -> None:
        """Begin nothing but what is queued now, until this is taken back: markers are recorded, and wait."""
        self._admission.drain(on=on)
        self.drained_s = (self.drained_s or time.time()) if on else None
        self._schedule()

    def configure(self, generation: Generation) -> None:
        """Apply another generation of the configuration from now on."""
        self._generation = generation
        self._admission.configure(generation.loaded.config.storm, generation.settings.owners)

    def resume(self, sealed: Mapping[str, IncidentState], left: Iterable[str] = ()) -> frozenset[str]:
        """
        Resume the markers that an earlier run recorded and did not finish.

        Args:
            sealed: The incidents of killed runs that have just been sealed, and their states.
            left: Those that can be continued; nobody else works on them.

        Returns:
            Those of *left* that will be: the ledger knows them, and the configuration in force has their pipelines.
        """
        self._counters.recovered(sealed)
        self._earlier.add_sealed(sealed)
        self._earlier.left = frozenset(left)
        # Those first: a full queue gives up the newest.
        self._resume_all(sorted(self._ledger.pending(), key=lambda entry: entry.incident not in self._earlier.left))
        return frozenset(self._earlier.continues.values())

    def recovered(self, sealed: Mapping[str, IncidentState]) -> None:
        """Record the fates of further incidents that were sealed for a killed run."""
        self._counters.recovered(sealed)
        self._earlier.add_sealed(sealed)
        self._resume_all(())

    def offer(self, marker: Marker, pipeline: str) -> None:
        """Record a trigger's marker and rule on it, unless it is known already."""
        if self._ledger.seen(marker) is None:
            marker = shortened(msgspec.structs.replace(marker, noticed_ticks=boot_ticks()))
            owner = self._owner(marker)
            if self._ledger.has_share(owner):
                number = self._ledger.record(marker, pipeline=pipeline, owner=owner)
            else:
                number = self._ledger.announce(marker, pipeline=pipeline, owner=owner)
                self._limits.reached("ledger rows", owner)
            self._rule(number, marker, pipeline)
            self._schedule()

    def by_hand(self, request: RunRequest, client: Client) -> None:
        """Queue a run by hand ahead of all others; a refusal is sent to *client*."""
        try:
            if self.drained_s is not None:
                raise PressureError("the daemon is drained: nothing begins", hint="`collector drain --off` ends that")
            marker = shortened(manual_marker(request.reason, request.processes, uid=client.uid))
            pipeline = steps_for(select_steps(self._generation.pipeline(request.pipeline), request.only), marker)
            if len(self._manual_runs) >= MAX_REQUESTS:
                raise PressureError(f"{MAX_REQUESTS} runs by hand are waiting already", hint=SEE_THE_QUEUE)
        except CollectorError as exc:
            client.end(Reply(exit_code=exc.exit_code, message=str(exc), hint=exc.hint))
            return
        number = self._ledger.record(marker, pipeline=pipeline.name, owner=self._owner(marker))
        self._manual_runs[number] = pipeline, client
        self._rule(number, marker, pipeline.name)
        self._schedule()

    def next(self) -> Work | None:
        """Return the next case that may run now; ``None`` if there is none."""
        while (case := self._admission.next(boot_s())) is not None:
            if case.id in self._manual_runs:
                pipeline, client = self._manual_runs.pop(case.id)
                return Work(case=case, pipeline=pipeline, client=client)
            known = self._generation.pipelines.get(case.pipeline)
            if known is not None:
                continues = self._earlier.continues.pop(case.id, None)
                pipeline = self._steps_of(case, known) if continues is None else known
                return Work(case=case, pipeline=pipeline, client=None, continues=continues)
            self._end(case, Fate.FAILED, None, f"there is no pipeline {case.pipeline!r} any more", 0)
        self._schedule()
        return None

    def begun(self, work: Work, incident: str) -> None:
        """Record that *incident* is about to be opened."""
        work.case.incident = incident
        self._ledger.begin(work.case.id, incident, over_budget=bool(work.case.over_budget))

    def finished(self, work: Work, outcome: Done) -> None:
        """Record how the incident ended."""
        fate = Fate.FAILED if outcome.incident is None else fate_of(outcome.state)
        if outcome.exit_code == PressureError.exit_code:
            self._limits.reached("archive.reserve", work.case.owner)
        over_budget = bool(work.case.over_budget)
        note = self._counters.finished(work.pipeline.name, outcome, over_budget=over_budget)
        self._ledger.remember(NOTE, note)
        self._end(work.case, fate, outcome.incident, outcome.reason, outcome.size_bytes)

    def tidy(self) -> None:
        """Prune the ledger, and return to its file if that works again; repeated every minute."""
        before = self._ledger.problem
        self._ledger.tidy(idle=self._admission.idle, may_grow=self._has_space())
        if before is not None and self._ledger.problem is None:
            log.info("ledger.recovered")
            self._resume_all(self._ledger.regained())
        self._log_problem()
        self._loop.call_later(TIDY_S, self.tidy)

    def _rule(self, number: int, marker: Marker, pipeline: str) -> None:
        self._admission.own = OwnProcesses(pids=self._own_pids(), units=frozenset({UNIT}))
        self._enter(number, marker, self._admission.offer(number, marker, pipeline=pipeline, now_s=boot_s()))

    def _enter(self, number: int, marker: Marker, ruling: Ruling) -> None:
        may_begin = ruling.case is None or self._admission.may_begin(ruling.case)
        self._rulings.enter(number, marker, ruling, owner=self._owner(marker), may_begin=may_begin)

    def _steps_of(self, case: Case, wanted: Pipeline) -> Pipeline:
        """Return what to run for *case*; beyond a budget, a reload may have removed the pipeline that it was due."""
        if not case.over_budget:
            return steps_for(wanted, case.marker)
        name = self._generation.loaded.config.storm.over_budget.pipeline
        brief = self._generation.pipelines.get(name or "", wanted)
        return beyond_budget(brief, wanted, case.marker, case.over_budget)

    def _owner(self, marker: Marker) -> str:
        return owner_of(marker, self._generation.settings.owners)

    def _has_space(self) -> bool:
        """Return whether the archive's disk has space beyond its reserve; if that is unknown, the ledger finds out."""
        space = archive_space(self._generation)
        return space is None or space.free_bytes > space.reserve_bytes

    def _resume_all(self, entries: Iterable[LedgerEntry]) -> None:
        for entry in entries:
            self._resume(entry)
        for incident, fate in self._earlier.sealed.items():
            self._ledger.recovered(incident, fate)
        self._schedule()

    def _resume(self, entry: LedgerEntry) -> None:
        """Retry a marker once, unless its incident is archived or goes on, or it was a run by hand."""
        if entry.incident in self._earlier.left and entry.pipeline in self._generation.pipelines:
            self._continue(entry, entry.incident)
        elif (end := self._earlier.end_of(entry)) is not None:
            self._counters.decided(entry.marker.trigger, end.fate)
            self._ledger.finish(entry.id, end.fate, incident=end.incident, reason=end.reason)
        elif entry.fate is Fate.RECORDED:  # not ruled on yet
            self._rule(entry.id, dump_ended(entry.marker, RESTARTED), entry.pipeline)
        else:
            ruling = self._admission.resume(entry.id, self._markers(entry), pipeline=entry.pipeline, now_s=boot_s())
            self._enter(entry.id, entry.marker, ruling)

    def _continue(self, entry: LedgerEntry, incident: str) -> None:
        """Queue a case whose incident was cut off, to go on with that; no budget holds it a second time."""
        case = self._admission.go_on(entry.id, self._markers(entry), pipeline=entry.pipeline, now_s=boot_s())
        self._earlier.continues[case.id] = incident
        self._counters.continued += 1
        log.info("incident.continued", incident=incident, pipeline=entry.pipeline)

    def _markers(self, entry: LedgerEntry) -> list[Marker]:
        """Return all markers of a case; who was held for it is not any more."""
        return [dump_ended(marker, RESTARTED) for marker in (entry.marker, *self._ledger.joined(entry.id))]

    def _end(self, case: Case, fate: Fate, incident: str | None, reason: str, size_bytes: int) -> None:
        self._counters.decided(case.markers[0].trigger, fate)
        self._admission.finished(case, incident=incident, size_bytes=size_bytes)
        self._holding.tidy()
        self._ledger.finish(case.id, fate, incident=incident, reason=reason, size_bytes=size_bytes)

    def _schedule(self) -> None:
        """Set the timer for the next case that may run."""
        self._cancel()
        now_s = boot_s()
        if (due_s := self._admission.due_s(now_s)) is not None:
            self._cancel = self._loop.call_later(max(0.0, due_s - now_s), self._wake)

    def _log_problem(self) -> None:
        """Log once that the ledger's file is not in use."""
        problem = self._ledger.problem
        if problem is not None and self._logged_problem is None:
            log.error("ledger.failed", error=problem, hint="markers are kept in memory until it works")
        self._logged_problem = problem
