"""What would happen if it crashed now: which steps would run, what the gate would say, what they would take. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from collector.model.marker import Marker
from collector.model.pressure import Budget, Sample, Verdict
from collector.pipeline.steps import Pipeline, Step
from collector.pressure.gate import decide


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """
    A file that a step would consider.

    *bytes_to_copy* is what would be copied of its *data_bytes*; a sparse file is longer (*size_bytes*).
    *why* it was found; *not_taken* says why it is left where it is after all.
    """

    name: str
    size_bytes: int
    data_bytes: int
    bytes_to_copy: int
    why: str = ""
    not_taken: str = ""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a step finds on the machine now; *unknown* says what only the crash itself will tell."""

    matches: tuple[Match, ...] = ()
    disk_bytes: int | None = None
    unknown: str | None = None


class StepForecast(msgspec.Struct, frozen=True, kw_only=True):
    """
    One step.

    Args:
        id: Of the step.
        collector: The kind of evidence.
        when: Its conditions in words; empty if it has none.
        condition: Why the step would not run for this crash; ``None`` if it would.
        timeout_s: Its deadline.
        reads_first: It, or what of it is small, is read before anything waits.
        verdict: The gate's answer now, with its class and its budget.
        finding: What it would take; ``None`` if that cannot be known, and is small.
    """

    id: str
    collector: str
    when: str
    condition: str | None
    timeout_s: float
    reads_first: bool
    verdict: Verdict
    finding: Finding | None = None


class Forecast(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline as it would run now. *disk_bytes* is what its bulk would take of *disk_free_bytes*."""

    pipeline: str
    trigger: str
    steps: tuple[StepForecast, ...]
    disk_bytes: int
    disk_free_bytes: int | None
    reserve_bytes: int

    @property
    def fits(self) -> bool:
        """Whether the bulk fits beside the reserve."""
        return self.disk_free_bytes is None or self.disk_free_bytes - self.disk_bytes >= self.reserve_bytes


def forecast(
    pipeline: Pipeline,
    marker: Marker,
    sample: Sample,
    *,
    reserve_bytes: int,
    findings: Mapping[str, Finding],
) -> Forecast:
    """
    Say what *pipeline* would do for *marker*.

    Args:
        pipeline: Compiled.
        marker: The crash, as far as it is described.
        sample: The machine now.
        reserve_bytes: Free space that the archive's file system keeps.
        findings: What steps would take, by their id.
    """
    steps = tuple(
        StepForecast(
            id=step.id,
            collector=step.collector.name,
            when=step.when.text(),
            condition=step.when.holds(marker),
            timeout_s=step.timeout_s,
            reads_first=step.reads_first,
            verdict=decide(sample, budget=_budget(step, findings), limits=step.limits, reserve_bytes=reserve_bytes),
            finding=findings.get(step.id),
        )
        for step in pipeline.steps
    )
    takes = (step.finding.disk_bytes or 0 for step in steps if step.finding and step.condition is None)
    return Forecast(
        pipeline=pipeline.name,
        trigger=marker.trigger,
        steps=steps,
        disk_bytes=sum(takes),
        disk_free_bytes=sample.disk.free_bytes if sample.disk else None,
        reserve_bytes=reserve_bytes,
    )


def _budget(step: Step, findings: Mapping[str, Finding]) -> Budget:
    """Return the budget of *step*, with the disk space that is known now."""
    finding = findings.get(step.id)
    return step.budget if finding is None else msgspec.structs.replace(step.budget, disk_bytes=finding.disk_bytes or 0)
