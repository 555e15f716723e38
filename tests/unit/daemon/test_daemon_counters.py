"""What is counted of incidents, and how much of it may be kept."""

from __future__ import annotations

from collector.daemon.counters import MOST_SERIES, OTHERS, Counters, Series
from collector.model.case import Fate
from collector.model.incident import IncidentState, StepEnd, StepStatus
from collector.model.pressure import Decision, Objection, Term, Verdict
from collector.runner.events import HandoverFailed, StepFinished
from collector.runner.replies import Done, RemovedCores


def test_series_are_bounded() -> None:
    """A configuration whose names change with each reload must not fill the daemon's memory."""
    series = Series()
    for number in range(2 * MOST_SERIES):
        series.add(f"step{number}", "command")
    assert len(series) == MOST_SERIES + 1
    assert series[OTHERS, OTHERS] == MOST_SERIES


def test_counters_keep_the_last_success_across_restarts() -> None:
    """A machine that was just started has not "never" had a complete incident."""
    counters, later = Counters(), Counters()
    note = counters.finished("crash", Done(state=IncidentState.COMPLETE, size_bytes=5))
    counters.finished("crash", Done(reason="no space", exit_code=75))
    later.restore(note)
    assert later.last_success_s == counters.last_success_s > 0
    assert counters.incidents == {("crash", "complete"): 1}
    assert counters.failed == {("crash",): 1}
    assert counters.archived_bytes == 5
    later.restore("damaged")
    assert later.last_success_s == counters.last_success_s


def test_counters_count_an_incomplete_incident_as_no_success() -> None:
    """That is what the alert about it goes by."""
    counters = Counters()
    counters.finished("crash", Done(state=IncidentState.INCOMPLETE))
    assert counters.last_incident_s > 0
    assert counters.last_success_s == 0


def test_counters_tell_over_budget_incidents_handovers_and_removed_cores_apart() -> None:
    """A brief that the kernel's triggers asked for is none of a repeat; a try that failed is not yet given up."""
    counters = Counters()
    for over_budget in (False, True):
        counters.finished("brief", Done(state=IncidentState.COMPLETE), over_budget=over_budget)
    counters.finished("brief", Done(reason="no space", exit_code=75), over_budget=True)
    assert counters.over_budget == 1
    counters.update(HandoverFailed(incident="i", reason="it exited with status 1", retry_s=300.0))
    assert counters.failed_handovers == 1
    for _ in range(2):
        counters.removed(RemovedCores("cores", ("1:2", "1:3"), 8192))
    assert counters.cores_removed == {("cores",): 4}
    assert counters.core_bytes_removed == {("cores",): 16384}


def test_counters_count_a_marker_when_its_fate_is_final() -> None:
    """One that waits is counted once it waits no more."""
    counters = Counters()
    for fate in (Fate.QUEUED, Fate.HELD, Fate.COLLECTED):
        counters.decided("cores", fate)
    assert counters.markers == {("cores", "collected"): 1}


def test_counters_of_a_step_have_its_end_and_the_terms_that_objected() -> None:
    """By term, not by the sentence with its numbers."""
    objections = (Objection(Term.ROOM, "3 MiB are free"), Objection(Term.DISTRESS, "60 stalls"))
    verdict = Verdict(decision=Decision.SKIP, available_bytes=1, budget_bytes=1, objections=objections)
    end = StepEnd(id="shm", collector="shm", status=StepStatus.SKIPPED, duration_s=1.5, verdict=verdict)
    counters = Counters()
    counters.update(StepFinished(incident="i", end=end, artifacts=0, size_bytes=0))
    assert counters.step_ends == {("shm", "shm", "skipped"): 1}
    assert counters.step_seconds == {("shm", "shm"): 1.5}
    assert counters.verdicts == {("skip",): 1}
    assert counters.objections == {("room",): 1, ("distress",): 1}
