"""The step that each incident has besides those of its pipeline: it archives what the flight recorder holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import msgspec

from collector.collectors.base import Context
from collector.host.shared_recording import shared
from collector.model.artifact import Artifact, Footprint, NotApplicable
from collector.model.pressure import Budget, StepClass
from collector.model.recording import STEP
from collector.model.units import Bytes
from collector.pipeline.generation import Generation
from collector.pipeline.steps import Pipeline, Step
from collector.runner.recorded_files import history


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderHistory:
    """Archive what the flight recorder holds; no pipeline lists it, and every incident has it."""

    name: ClassVar[str] = "recorder"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.LIGHT, peak_bytes=1 << 20, timeout_s=10.0)

    def collect(self, ctx: Context) -> Iterator[Artifact]:  # noqa: ARG002 - it is in memory
        """Yield the seconds and the largest processes."""
        if (recording := shared()) is None:
            raise NotApplicable("there is no flight recorder in this process")
        yield from history(recording)


def with_recorder(pipeline: Pipeline, generation: Generation) -> Pipeline:
    """Return *pipeline* with that step, the last of the light ones: no other waits for it; unchanged if it is off."""
    if not generation.recorder.rows:
        return pipeline
    footprint = RecorderHistory.footprint
    step = Step(
        id=STEP,
        collector=RecorderHistory(),
        timeout_s=footprint.timeout_s,
        limits=msgspec.structs.replace(generation.loaded.config.pressure, floor_bytes=Bytes(0)),
        budget=Budget(step_class=footprint.step_class, memory_bytes=footprint.peak_bytes),
    )
    return dataclasses.replace(pipeline, steps=(*pipeline.steps, step))
