"""What an incident holds, and what it lacks."""

from __future__ import annotations

import msgspec

from collector.archive.read import UnderWay
from collector.model.artifact import ArtifactRecord
from collector.model.incident import Manifest, StepStatus
from collector.model.text import printable
from collector.report.core_facts import CoreFacts
from collector.report.documents import Documents
from collector.report.story import Kept, KeptSegment, Missing
from collector.report.text import one_line

MAX_SEGMENTS = 4096
REASON_SHOWN = 500
NEVER_RUN, TO_COME, DAMAGED = "never run", "not yet run", "damaged"
"""In place of the status of a step that has none, or whose artifacts cannot be read."""


class PlannedSegment(msgspec.Struct, frozen=True, kw_only=True):
    """Part of `model.segments.Planned`."""

    name: str
    why: str = ""
    size_bytes: int = 0
    artifact: str = ""
    not_taken: str = ""


def kept(documents: Documents, core: CoreFacts) -> Kept:
    """Return what is kept; the core and the segments count if they are there, as long as they were archived."""
    records = {record.path: record for record in documents.records}
    path = documents.path("core", "core")
    if path and not documents.is_there(records[path]):
        path = ""
    folder = documents.path("shm", "segments.jsonl").rpartition("/")[0]
    rows = documents.rows("shm", "segments.jsonl", PlannedSegment)[:MAX_SEGMENTS]
    return Kept(
        files=len(documents.records),
        size_bytes=sum(record.data_bytes for record in documents.records),
        core=path,
        core_bytes=records[path].data_bytes if path else 0,
        core_content=printable(core.content, limit=40),
        segments=tuple(
            _segment(row, records.get(f"{folder}/{row.artifact}") if row.artifact else None, documents) for row in rows
        ),
    )


def _segment(row: PlannedSegment, record: ArtifactRecord | None, documents: Documents) -> KeptSegment:
    taken = record is not None and documents.is_there(record)
    why = row.not_taken or ("" if taken else "it was not copied" if record is None else "its copy is damaged")
    return KeptSegment(
        name=printable(row.name),
        size_bytes=max(0, row.size_bytes),
        artifact=record.path if record is not None and taken else "",
        why=printable(why, limit=REASON_SHOWN),
    )


def missing(incident: Manifest | UnderWay, documents: Documents) -> tuple[Missing, ...]:
    """Return the steps without all of their evidence: first what is missing, then what does not apply to this crash."""
    found = [
        Missing(
            step=printable(step.id, limit=80),
            status=step.status,
            reason=one_line(step.reason or (step.verdict.reason if step.verdict else ""), limit=REASON_SHOWN),
            optional=step.id in incident.optional,
        )
        for step in incident.steps
        if step.status is not StepStatus.OK
    ]
    found += [
        Missing(step=printable(step, limit=80), status=DAMAGED, reason=why) for step, why in documents.problems.items()
    ]
    done = {step.id for step in incident.steps}
    status = NEVER_RUN if isinstance(incident, Manifest) else TO_COME
    found += [
        Missing(step=printable(step, limit=80), status=status, reason="", optional=step in incident.optional)
        for step in incident.planned
        if step not in done
    ]
    return tuple(sorted(found, key=lambda one: (one.status in {StepStatus.NOT_APPLICABLE, TO_COME}, one.optional)))
