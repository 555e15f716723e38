"""``collector show --steps`` and ``--files``: the steps of an incident, how they went, and what they left."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from collector.archive.read import UnderWay
from collector.cli.text import counted, escape_name, size, when
from collector.model.artifact import ArtifactRecord
from collector.model.errors import UsageError
from collector.model.incident import Manifest, StepRecord
from collector.model.marker import Marker
from collector.model.pressure import SpeedChange
from collector.model.signals import signal_name


def step_lines(found: Manifest | UnderWay) -> Iterator[str]:
    """Yield how each step ended, and those that did not run."""
    yield from _markers(found)
    for step in found.steps:
        yield from ("", *_step(step))
    done = {step.id for step in found.steps}
    left_out = [step for step in found.left_out if step.id not in done]
    if left_out:
        yield from ("", *(f"left out: {escape_name(step.id)}: {escape_name(step.reason)}" for step in left_out))
    if isinstance(found, Manifest) and found.foreign_names:
        yield from ("", f"not listed: {found.foreign_names} files whose names are not the collector's")
    missing = [step for step in found.planned if step not in done]
    if missing:
        label = "never run" if isinstance(found, Manifest) else "not yet run"
        yield from ("", f"{label}: {escape_name(', '.join(missing))}")


def file_lines(found: Manifest | UnderWay, step: str | None) -> Iterator[str]:
    """
    Yield the files of each step, or of one.

    Raises:
        UsageError: If there is no such step.
    """
    steps = [one for one in found.steps if step in {None, one.id}]
    if step is not None and not steps:
        known = ", ".join(escape_name(one.id) for one in found.steps)
        raise UsageError(f"the incident has no step {step!r}", hint=f"it has {known}")
    for number, one in enumerate(steps):
        yield from ("",) * bool(number)
        yield f"{escape_name(one.id)}  {one.status}"
        yield from (f"  {_artifact(artifact)}" for artifact in one.artifacts)


def _markers(found: Manifest | UnderWay) -> Iterator[str]:
    yield f"incident  {escape_name(found.id)}  {found.state}"
    yield f"machine   {escape_name(found.host)}, Linux {escape_name(found.kernel)}"
    seconds = found.ended_s - found.started_s if isinstance(found, Manifest) else -1.0
    took = f", took {seconds:.2f} s" if seconds >= 0 else ""  # sealed after the clock was set back: not known
    yield f"time      {when(found.started_s)}{took}"
    if isinstance(found, Manifest) and found.hold is not None:
        yield f"held      {found.hold.seconds:.2f} s: {escape_name(found.hold.ended)}"
    for one in found.continued if isinstance(found, Manifest) else ():
        done = f"; done before: {escape_name(', '.join(one.done))}" if one.done else ""
        yield f"continued {when(one.at_s)}, {one.gap_s:.1f} s after it was cut off{done}"
    if found.over_budget:
        yield f"brief     over budget: {escape_name(found.over_budget)}"
    yield from (f"marker    {_marker(marker)}" for marker in found.markers)


def _marker(marker: Marker) -> str:
    known: dict[str, Any] = {
        "pid": marker.process.pid if marker.process else None,
        "inner_pid": marker.inner_pid if marker.process is None or marker.inner_pid != marker.process.pid else None,
        "thread": marker.thread if marker.process is None or marker.thread != marker.process.pid else None,
        "comm": marker.comm,
        "thread_comm": marker.thread_comm,
        "exe": marker.exe,
        "uid": marker.uid,
        "signal": signal_name(marker.signal) if marker.signal is not None else None,
        "unit": marker.unit,
        "core": marker.core.path if marker.core else None,
    }
    facts = " ".join(f"{name}={escape_name(str(value))}" for name, value in known.items() if value is not None)
    doubt = "" if marker.attributed else " (names no certain process: perhaps about this crash)"
    if marker.doubtful and marker.process is not None:
        doubt += " (its PID is only claimed, and may be of another PID namespace)"
    return f"{escape_name(marker.trigger)}: {escape_name(marker.reason)} {facts}".rstrip() + doubt


def _step(step: StepRecord) -> Iterator[str]:
    kept_bytes = sum(artifact.data_bytes for artifact in step.artifacts)
    files = f"  {counted(len(step.artifacts), 'file')}, {size(kept_bytes)}" if step.artifacts else ""
    yield f"{escape_name(step.id)}  {step.status}  {step.duration_s:.2f} s{files}"
    if step.reason:
        yield f"  why    {escape_name(step.reason)}"
    if step.hint:
        yield f"  hint   {escape_name(step.hint)}"
    if step.verdict is not None and step.verdict.reason:
        yield f"  gate   {step.verdict.decision}: {escape_name(step.verdict.reason)}"
    yield from (f"  gate   {_change(change)}" for change in step.speed_changes)
    if step.more_changes:
        yield f"  gate   {step.more_changes} changes more"


def _change(change: SpeedChange) -> str:
    return f"after {change.after_s:.1f} s {escape_name(change.advice)} {escape_name(change.reason)}".rstrip()


def _artifact(artifact: ArtifactRecord) -> str:
    marks = [
        mark
        for mark, applies in (
            ("sparse", artifact.sparse),
            ("TRUNCATED", artifact.truncated),
            ("source changed during the copy", artifact.source_changed),
            ("buffered", artifact.direct is False and artifact.data_bytes >= 1 << 20),
            (f"gate {escape_name(artifact.gate_reason or '')}", artifact.gate_reason),
        )
        if applies
    ]
    text = f"{size(artifact.size_bytes):>10}  {artifact.path}"
    if artifact.source is not None:
        text += f"  <- {escape_name(artifact.source)}"
    return f"{text}  [{', '.join(marks)}]" if marks else text
