"""The machine's memory, and what the gate would allow at this moment."""

from __future__ import annotations

from collections.abc import Iterator

from collector.cli.check import Check
from collector.model.pressure import Decision, Sample
from collector.model.units import size
from collector.pipeline.generation import Generation
from collector.pipeline.steps import Pipeline
from collector.pressure.gate import decide
from collector.pressure.sampler import Sampler


def pressure(generation: Generation) -> Iterator[Check]:
    """Yield the state of the memory, and for each pipeline what would be collected now."""
    sampler = Sampler()
    sample = sampler.settled_sample()
    if not sampler.has_psi:
        said = "no PSI: memory stalls show in reclaim counters only"
        yield Check("warning", "pressure", said, "boot with psi=1")
    said = f"{size(sample.available_bytes)} available, {size(sample.room_bytes)} before reclaim, {sample.distress}"
    yield Check("ok", "memory", f"{said} {sample.distress_reason}".strip())
    for pipeline in generation.pipelines.values():
        yield _collected_now(pipeline, sample)


def _collected_now(pipeline: Pipeline, sample: Sample) -> Check:
    """Return which steps of a pipeline the gate would allow at this moment."""
    verdicts = {step.id: decide(sample, budget=step.budget, limits=step.limits) for step in pipeline.steps}
    held = [step for step, verdict in verdicts.items() if verdict.decision is not Decision.PROCEED]
    said = f"{pipeline.name} would collect now: {', '.join(step for step in verdicts if step not in held) or 'nothing'}"
    if not held:
        return Check("ok", "gate", said)
    reasons = "; ".join(f"{step}: {verdicts[step].decision}, {verdicts[step].reason}" for step in held)
    return Check("warning", "gate", f"{said}; held back: {reasons}", "docs/operations.md, The gate is closed")
