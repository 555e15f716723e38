"""What the runner tells while it works: to the log, to ``status``, to whoever asked for the run."""

from __future__ import annotations

import msgspec

from collector.model.incident import IncidentState, StepEnd


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag=True):
    """Base of all events; *incident* is empty where none was opened."""

    incident: str


class IncidentOpened(Event, frozen=True, kw_only=True, tag="incident.opened"):
    """The header is on disk."""

    path: str
    steps: tuple[str, ...]


class EvidenceRead(Event, frozen=True, kw_only=True, tag="evidence.read"):
    """All light evidence is in memory; nothing of it is on disk yet. *duration_s* is since the incident's start."""

    steps: tuple[str, ...]
    duration_s: float


class StepStarted(Event, frozen=True, kw_only=True, tag="step.started"):
    """A worker runs the step."""

    step: str


class StepWaiting(Event, frozen=True, kw_only=True, tag="step.waiting"):
    """The gate is closed; the step waits."""

    step: str
    reason: str


class StepProgressed(Event, frozen=True, kw_only=True, tag="step.progressed"):
    """Bytes written so far."""

    step: str
    size_bytes: int


class StepFinished(Event, frozen=True, kw_only=True, tag="step.finished"):
    """A step ended, in whatever way."""

    end: StepEnd
    artifacts: int
    size_bytes: int


class JournalFailed(Event, frozen=True, kw_only=True, tag="journal.failed"):
    """A step's end could not be put on disk; it is told again when the incident is sealed."""

    reason: str


class IncidentPruned(Event, frozen=True, kw_only=True, tag="incident.pruned"):
    """An old incident was deleted: *reason* says by which rule."""

    reason: str


class IncidentArchived(Event, frozen=True, kw_only=True, tag="incident.archived"):
    """The incident has its final name; *reason* says why it was cut short by the collector itself."""

    path: str
    state: IncidentState
    artifacts: int
    size_bytes: int
    duration_s: float
    reason: str = ""


class IncidentRefused(Event, frozen=True, kw_only=True, tag="incident.refused"):
    """Nothing was archived. *exit_code* is the error's, sysexits.h."""

    reason: str
    exit_code: int
    hint: str | None = None


AnyEvent = (
    EvidenceRead
    | IncidentOpened
    | StepStarted
    | StepWaiting
    | StepProgressed
    | StepFinished
    | JournalFailed
    | IncidentPruned
    | IncidentArchived
    | IncidentRefused
)
