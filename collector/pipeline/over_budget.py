"""What runs for a crash beyond its budget: the pipeline named for that, without bulk."""

from __future__ import annotations

import dataclasses

from collector.collectors.core.core import Core, KeepCore
from collector.collectors.core.dump_content import CoreContent
from collector.model.marker import Marker
from collector.model.pressure import StepClass
from collector.pipeline.steps import Pipeline, Step, steps_for


def beyond_budget(brief: Pipeline, wanted: Pipeline, marker: Marker, reason: str) -> Pipeline:
    """
    Return what runs of *brief* in place of *wanted*.

    Args:
        brief: The pipeline for crashes beyond their budget.
        wanted: The one that would have run.
        marker: What is known of the crash.
        reason: Which budget was exceeded: for the manifest.
    """
    steps = tuple(reduced for step in brief.steps if (reduced := without_bulk(step)) is not None)
    known = {step.id for step in steps}
    forgone = dict.fromkeys(step.id for step in (*wanted.steps, *brief.steps) if step.id not in known)
    chosen = steps_for(dataclasses.replace(brief, steps=steps), marker)
    return dataclasses.replace(chosen, over_budget=reason, forgone=tuple(forgone))


def without_bulk(step: Step) -> Step | None:
    """Return *step* without what it copies: of a core, its notes are left; ``None`` if nothing is."""
    if isinstance(step.collector, Core):
        core = dataclasses.replace(step.collector, keep=KeepCore.NONE, content=CoreContent.NOTES)
        return dataclasses.replace(step, collector=core)
    return None if step.budget.step_class is StepClass.DIRECT else step
