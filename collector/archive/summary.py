"""An incident in a line of a list, and the part of its manifest that this takes."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from collector.model.case import merge
from collector.model.incident import IncidentHeader, IncidentState, StepStatus

CORE_STEP = "core"
NEVER_RUN = "never run"
"""The status of a step that was planned, in an incident that was interrupted before."""


class ArtifactOutline(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An artifact's path, and how much data it has."""

    path: str
    data_bytes: int


class StepOutline(msgspec.Struct, frozen=True, kw_only=True):
    """How a step ended, and what it has."""

    id: str
    collector: str
    status: StepStatus
    reason: str = ""
    artifacts: tuple[ArtifactOutline, ...] = ()


class Outline(IncidentHeader, frozen=True, kw_only=True):
    """
    What a list needs of a `Manifest`; the other keys are not decoded.

    Most of a manifest are its artifacts' details: 500 of 31 KiB take 13 ms so, and 48 ms in full.
    """

    state: IncidentState
    ended_s: float
    steps: tuple[StepOutline, ...] = ()


class MissingStep(msgspec.Struct, frozen=True, kw_only=True):
    """A required step without all of its evidence, and why."""

    step: str
    status: str
    reason: str


class IncidentSummary(msgspec.Struct, frozen=True, kw_only=True):
    """
    One line of ``collector list``; *ended_s* is ``None`` if the incident is not sealed.

    *core* is the path of its ``core.json``, empty if it has none. *event* is what happened to whom no signal ended.
    *over_budget* is which budget was exceeded, if it was collected without bulk for that reason.
    """

    id: str
    state: str
    started_s: float
    ended_s: float | None
    trigger: str
    reason: str
    size_bytes: int
    steps: dict[str, str]
    missing: tuple[MissingStep, ...] = ()
    comm: str | None = None
    pid: int | None = None
    exe: str | None = None
    uid: int | None = None
    unit: str | None = None
    signal: int | None = None
    exit_status: int | None = None
    event: str = ""
    owner: str = ""
    core: str = ""
    over_budget: str = ""
    host: str = ""
    boot_id: str = ""
    machine_id: str = ""
    labels: dict[str, str] = {}
    number: int = 0
    """The archive's count: the order, whatever the times say; 0 in incidents of earlier releases."""


def summarize(found: Outline) -> IncidentSummary:
    """Return the summary of a sealed incident."""
    artifacts = [artifact for step in found.steps for artifact in step.artifacts]
    cores = (
        artifact.path
        for step in found.steps
        if step.collector == CORE_STEP
        for artifact in step.artifacts
        if artifact.path.endswith("/core.json")
    )
    return header_summary(
        found,
        state=found.state,
        ended_s=found.ended_s,
        size_bytes=sum(artifact.data_bytes for artifact in artifacts),
        steps={step.id: step.status for step in found.steps},
        missing=tuple(_missing(found)),
        core=next(cores, ""),
    )


def header_summary(header: IncidentHeader, **known: object) -> IncidentSummary:
    """Return a summary of what a header says, and what else is *known*."""
    marker = merge(header.markers)
    facts: dict[str, object] = {
        "id": header.id,
        "started_s": header.started_s,
        "trigger": marker.trigger,
        "reason": marker.reason,
        "comm": marker.comm,
        "pid": marker.process.pid if marker.process else None,
        "exe": marker.exe,
        "uid": marker.uid,
        "unit": marker.unit,
        "signal": marker.signal,
        "exit_status": marker.exit_status,
        "event": marker.attributes.get("event", ""),
        "owner": header.owner,
        "over_budget": header.over_budget,
        "host": header.host,
        "boot_id": header.boot_id,
        "machine_id": header.machine_id,
        "labels": header.labels,
        "number": header.number,
    }
    return IncidentSummary(**(facts | known))  # type: ignore[arg-type]


def _missing(found: Outline) -> Iterator[MissingStep]:
    required = set(found.planned) - set(found.optional)
    for step in found.steps:
        if step.id in required and not step.status.nothing_missing:
            yield MissingStep(step=step.id, status=step.status, reason=step.reason)
    done = {step.id for step in found.steps}
    for name in found.planned:
        if name in required - done:
            yield MissingStep(step=name, status=NEVER_RUN, reason="")
