"""What happened when in an incident: its witnesses, the hold of the process, the steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from collector.model.incident import Manifest, StepRecord
from collector.report.story import Story

SPEED_CHANGES = 4


class TimelineRow(NamedTuple):
    """
    Something that happened.

    *at_s* is since the epoch, *took_s* ``None`` for what has no length. *kind* is ``witness``, ``hold``, ``step`` or
    ``end``; *status* is a step's; *first* and *last* are its place in the whole time, 0 to 1.
    """

    at_s: float
    took_s: float | None
    kind: str
    name: str
    status: str
    note: str
    first: float = 0.0
    last: float = 0.0


def timeline(story: Story, manifest: Manifest) -> list[TimelineRow]:
    """Return the rows by time."""
    found = sorted(_rows(story, manifest), key=lambda row: row.at_s)
    start_s = found[0].at_s
    length_s = max(max(row.at_s + (row.took_s or 0.0) for row in found) - start_s, 1e-3)
    return [
        row._replace(first=(row.at_s - start_s) / length_s, last=(row.at_s + (row.took_s or 0.0) - start_s) / length_s)
        for row in found
    ]


def _rows(story: Story, manifest: Manifest) -> Iterator[TimelineRow]:
    for witness in story.witnesses:
        if witness.at is not None:
            doubt = " (perhaps about this crash)" if witness.doubtful else ""
            yield TimelineRow(witness.at.timestamp(), None, "witness", witness.trigger, "", f"{witness.said}{doubt}")
    if manifest.hold is not None:
        ended = manifest.hold.ended
        yield TimelineRow(manifest.started_s, manifest.hold.seconds, "hold", "process held", "", ended)
    for step in manifest.steps:
        if step.started_s:
            yield TimelineRow(step.started_s, step.duration_s, "step", step.id, step.status, _note(step))
    yield TimelineRow(manifest.ended_s, None, "end", "sealed", "", manifest.state)


def _note(step: StepRecord) -> str:
    parts = [step.reason] if step.reason else []
    if step.verdict is not None and step.verdict.reason:
        parts.append(f"gate: {step.verdict.decision}: {step.verdict.reason}")
    for change in step.speed_changes[:SPEED_CHANGES]:
        parts.append(f"after {change.after_s:.1f} s {change.advice}{': ' if change.reason else ''}{change.reason}")
    more = len(step.speed_changes) - SPEED_CHANGES + step.more_changes
    if more > 0:
        parts.append(f"{more} more changes of speed")
    return "; ".join(parts)
