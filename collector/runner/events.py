"""What the runner reports while it works: to the log, to ``status``, and to the command that asked for the run."""

from __future__ import annotations

import msgspec

from collector.model.incident import IncidentState, StepEnd


class RunEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=True):
    """Base of all events; *incident* is empty if none was opened."""

    incident: str


class IncidentOpened(RunEvent, frozen=True, kw_only=True, tag="incident.opened"):
    """The incident's directory and header are on disk. *left_out*: why each step was, by its id."""

    path: str
    steps: tuple[str, ...]
    left_out: dict[str, str] = {}
    over_budget: str = ""


class EvidenceRead(RunEvent, frozen=True, kw_only=True, tag="evidence.read"):
    """All light evidence is in memory, none on disk yet; *duration_s* is the time since the incident's start."""

    steps: tuple[str, ...]
    duration_s: float


class StepStarted(RunEvent, frozen=True, kw_only=True, tag="step.started"):
    """A worker starts the step."""

    step: str


class StepWaiting(RunEvent, frozen=True, kw_only=True, tag="step.waiting"):
    """The gate is closed; the step waits."""

    step: str
    reason: str


class StepQueued(RunEvent, frozen=True, kw_only=True, tag="step.queued"):
    """The bulk of another incident is copied first."""

    step: str
    reason: str


class StepProgressed(RunEvent, frozen=True, kw_only=True, tag="step.progressed"):
    """Bytes written so far, of how many if that is known, and why the gate holds the copy back, if it does."""

    step: str
    size_bytes: int
    total_bytes: int | None = None
    slowed: str = ""


class StepFinished(RunEvent, frozen=True, kw_only=True, tag="step.finished"):
    """A step ended, successfully or not."""

    end: StepEnd
    artifacts: int
    size_bytes: int


class JournalFailed(RunEvent, frozen=True, kw_only=True, tag="journal.failed"):
    """A step's end could not be recorded on disk; sealing the incident tries again."""

    reason: str


class IncidentPruned(RunEvent, frozen=True, kw_only=True, tag="incident.pruned"):
    """An old incident was deleted; *reason* names the rule, *owner* whose it was."""

    reason: str
    owner: str = ""


class IncidentArchived(RunEvent, frozen=True, kw_only=True, tag="incident.archived"):
    """The incident has its final name; *reason* says why the collector itself cut it short, if it did."""

    path: str
    state: IncidentState
    artifacts: int
    size_bytes: int
    duration_s: float
    reason: str = ""


class IncidentRefused(RunEvent, frozen=True, kw_only=True, tag="incident.refused"):
    """Nothing was archived. *exit_code* is the error's, sysexits.h."""

    reason: str
    exit_code: int
    hint: str | None = None


class HandoverDone(RunEvent, frozen=True, kw_only=True, tag="handover.done"):
    """The operator's program has taken the incident over; *tries* counts those that failed, too."""

    tries: int
    duration_s: float


class HandoverFailed(RunEvent, frozen=True, kw_only=True, tag="handover.failed"):
    """
    The incident was not handed over. *retry_s* is the pause before the next try, ``None`` if there is none.

    *tries* are those that were begun, 0 if this one could not be; *output* is the end of what the program printed.
    """

    reason: str
    tries: int = 0
    output: str = ""
    exit_status: int | None = None
    retry_s: float | None = None


AnyEvent = (
    EvidenceRead
    | IncidentOpened
    | StepStarted
    | StepWaiting
    | StepQueued
    | StepProgressed
    | StepFinished
    | JournalFailed
    | IncidentPruned
    | IncidentArchived
    | IncidentRefused
    | HandoverDone
    | HandoverFailed
)
