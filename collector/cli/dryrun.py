"""``collector run --dry-run``: what would run, and what the gate says now."""

from __future__ import annotations

import click
import msgspec

from collector.cli.text import size
from collector.model.units import format_seconds
from collector.pipeline.generation import Generation
from collector.pipeline.steps import Pipeline
from collector.pressure.gate import decide
from collector.pressure.sampler import Sampler


def show_plan(generation: Generation, pipeline: Pipeline, *, as_json: bool) -> int:
    """Show every step with its deadline, its budget and the gate's verdict; write nothing."""
    sample = Sampler().sample()
    verdicts = {step.id: decide(sample, budget=step.budget, limits=step.limits) for step in pipeline.steps}
    if as_json:
        steps = [
            {
                "id": step.id,
                "collector": step.collector.name,
                "timeout_s": step.timeout_s,
                "reads_first": step.reads_first,
                "verdict": msgspec.to_builtins(verdicts[step.id]),
            }
            for step in pipeline.steps
        ]
        document = {"pipeline": pipeline.name, "archive": generation.settings.archive, "steps": steps}
        click.echo(msgspec.json.encode(document))
        return 0
    click.echo(f"pipeline {pipeline.name}, archive {generation.settings.archive}")
    for step in pipeline.steps:
        verdict = verdicts[step.id]
        told = verdict.decision if not verdict.objections else f"{verdict.decision}: {verdict.reason}"
        click.echo(
            f"  {step.id:<16} {step.collector.name:<16} {step.budget.step_class:<6} at most"
            f" {format_seconds(step.timeout_s)}, {size(step.budget.memory_bytes)}; now: {told}"
        )
    return 0
