"""An incident and its manifest."""

from __future__ import annotations

import enum
from collections.abc import Iterator

import msgspec

from collector.model.artifact import ArtifactRecord
from collector.model.marker import Marker
from collector.model.pressure import SpeedChange, Verdict

MANIFEST_VERSION = 1


class StepStatus(enum.StrEnum):
    """How a step ended."""

    OK = "ok"
    SKIPPED = "skipped"
    NOT_APPLICABLE = "not_applicable"
    TRUNCATED = "truncated"
    TIMEOUT = "timeout"
    ABANDONED = "abandoned"
    FAILED = "failed"

    @property
    def nothing_missing(self) -> bool:
        """Whether all evidence that applies to the crash was collected."""
        return self in {StepStatus.OK, StepStatus.NOT_APPLICABLE}


class IncidentState(enum.StrEnum):
    """How an incident ended: *complete* if every step is ok or does not apply, else *incomplete*."""

    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    INTERRUPTED = "interrupted"


class StepEnd(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    One line of ``steps.jsonl``: how a step ended.

    *speed_changes* are the first 64 that the gate ordered during its copies; *more_changes* counts the others.
    """

    id: str
    collector: str
    status: StepStatus
    reason: str = ""
    hint: str | None = None
    started_s: float = 0.0
    duration_s: float = 0.0
    verdict: Verdict | None = None
    speed_changes: tuple[SpeedChange, ...] = ()
    more_changes: int = 0


class StepRecord(StepEnd, frozen=True, kw_only=True, omit_defaults=True):
    """A step in the manifest: its end and its artifacts."""

    artifacts: tuple[ArtifactRecord, ...] = ()


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A step that its conditions left out, and the one that was not met by what was known when the incident began."""

    id: str
    reason: str


class HoldRecord(msgspec.Struct, frozen=True, kw_only=True):
    """For how many *seconds* the kernel held the crashed process, and why it was let go."""

    seconds: float
    ended: str


class Continuation(msgspec.Struct, frozen=True, kw_only=True):
    """
    One line of ``continued.jsonl``: a later run of the same boot went on with an incident that was cut off.

    *gap_s* is how many seconds before *at_s*, since the epoch, the run that was cut off wrote last. *done* are the
    steps that had ended by then.
    """

    at_s: float
    gap_s: float
    collector_version: str
    config_hash: str
    done: tuple[str, ...] = ()


class IncidentHeader(msgspec.Struct, frozen=True, kw_only=True):
    """
    ``incident.json``: what is known when an incident is opened.

    *planned* are the ids of all steps that will be tried; an incident is complete even without those that are
    *optional*. Those of *left_out* are tried only if a marker that joins later meets their conditions. *number* is the
    archive's count of its incidents, and their order; the id is a label by the wall clock. It is 0 in incidents of
    earlier releases. *owner* is whose crash it is (`model.owners`), and who pays for its space. *over_budget* is
    which budget was exceeded, and the pipeline that ran for that reason instead; what else would have been collected is
    in *left_out*. *labels* are those of the configuration; *machine_id* is that of machine-id(5), empty if the machine
    has none.
    """

    version: int
    id: str
    pipeline: str
    markers: tuple[Marker, ...]
    host: str
    boot_id: str
    kernel: str
    collector_version: str
    config_hash: str
    started_s: float
    planned: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    number: int = 0
    owner: str = ""
    over_budget: str = ""
    labels: dict[str, str] = {}
    machine_id: str = ""


class Manifest(IncidentHeader, frozen=True, kw_only=True):
    """
    ``manifest.json``: the full record of a sealed incident.

    *archive_clock_s* is what the archive's own clock showed when it was sealed; its age counts from there.
    *sealed_bytes* is the space on disk that it then took: retention goes by it, whatever becomes of its files.
    *foreign_names* is how many files are not listed because the collector gives no such names.
    *hold* is set if the kernel held the crashed process while its evidence was collected. *continued* is set if the run
    that began it was cut off, and the next one went on.
    """

    state: IncidentState
    ended_s: float
    steps: tuple[StepRecord, ...] = ()
    archive_clock_s: float = 0.0
    sealed_bytes: int | None = None
    foreign_names: int = 0
    hold: HoldRecord | None = None
    continued: tuple[Continuation, ...] = ()

    def artifacts(self) -> Iterator[ArtifactRecord]:
        """Yield the artifacts of all steps."""
        for step in self.steps:
            yield from step.artifacts
