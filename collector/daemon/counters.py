"""What the daemon counts for its metrics: fed by the runner's events and the intake's decisions."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping

from collector.model.case import Fate
from collector.model.incident import IncidentState, StepEnd
from collector.runner import events
from collector.runner.replies import Done, RemovedCores

MOST_SERIES = 1024
"""Of one metric: names of triggers and steps are the configuration's, which may have others after each reload."""

OTHERS = "others"

NOTE = "last incidents"
"""The key of the ledger's note with the times of the last incident and the last complete one."""


class Series(dict[tuple[str, ...], float]):
    """Values by those of the labels, of a bounded number of these."""

    def add(self, *labels: str, amount: float = 1) -> None:
        if labels not in self and len(self) >= MOST_SERIES:
            labels = tuple(OTHERS for _ in labels)
        self[labels] = self.get(labels, 0) + amount


class Counters:
    """Counts since the start, by the labels that `metric_table` gives to the metric of that name."""

    def __init__(self) -> None:
        self.markers, self.incidents, self.failed = Series(), Series(), Series()
        self.step_ends, self.steps, self.step_seconds = Series(), Series(), Series()
        self.verdicts, self.objections = Series(), Series()
        self.cores_removed, self.core_bytes_removed = Series(), Series()
        self.waits = self.pruned = self.archived_bytes = 0
        self.over_budget = self.continued = self.failed_handovers = 0
        self.archived, self.archiving_s = 0, 0.0
        self.last_incident_s = self.last_success_s = 0.0
        self.kept: tuple[int, int] | None = None
        """Incidents in the archive, and their bytes; ``None`` until retention has looked."""

    def update(self, event: events.AnyEvent) -> None:
        match event:
            case events.StepFinished(end=end):
                self._step(end)
            case events.StepWaiting():
                self.waits += 1
            case events.IncidentPruned():
                self.pruned += 1
            case events.HandoverFailed():
                self.failed_handovers += 1
            case events.IncidentArchived():
                self.archived += 1
                self.archiving_s += event.duration_s

    def decided(self, trigger: str, fate: Fate) -> None:
        """Count a marker whose fate is final."""
        if not fate.open:
            self.markers.add(trigger, fate)

    def finished(self, pipeline: str, outcome: Done, *, over_budget: bool = False) -> str:
        """Count an incident; return what must survive the daemon, for `restore`."""
        if outcome.state is None:
            self.failed.add(pipeline)
        else:
            self.incidents.add(pipeline, outcome.state)
            self.over_budget += over_budget
            self.archived_bytes += outcome.size_bytes
            self.last_incident_s = time.time()
            if outcome.state is IncidentState.COMPLETE:
                self.last_success_s = self.last_incident_s
        return f"{self.last_incident_s} {self.last_success_s}"

    def recovered(self, sealed: Mapping[str, IncidentState]) -> None:
        """Count the incidents of an earlier run that were sealed by this start."""
        for state in sealed.values():
            self.incidents.add("", state)

    def removed(self, cores: RemovedCores) -> None:
        """Count what was removed of a trigger's files."""
        self.cores_removed.add(cores.trigger, amount=len(cores.removed))
        self.core_bytes_removed.add(cores.trigger, amount=cores.size_bytes)

    def looked(self, done: Done) -> None:
        """Note what retention has found in the archive and left there."""
        if done.kept is not None:
            self.kept = done.kept

    def restore(self, note: str | None) -> None:
        """Take over what an earlier run has noted."""
        with contextlib.suppress(ValueError):
            self.last_incident_s, self.last_success_s = map(float, (note or "").split())

    def _step(self, end: StepEnd) -> None:
        self.steps.add(end.id, end.collector)
        self.step_seconds.add(end.id, end.collector, amount=end.duration_s)
        self.step_ends.add(end.id, end.collector, end.status)
        if end.verdict is not None:
            self.verdicts.add(end.verdict.decision)
            for objection in end.verdict.objections:
                self.objections.add(objection.term)
