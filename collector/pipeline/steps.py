"""What the YAML file compiles to: steps that are ready to run."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from collector.collectors.base import Collector
from collector.model.artifact import HeldUse
from collector.model.conditions import ALWAYS, Conditions
from collector.model.errors import UsageError
from collector.model.marker import Marker
from collector.model.pressure import Budget, GateLimits, StepClass

T = TypeVar("T")

HEAD_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """
    A configured use of a collector, ready to run.

    Args:
        id: Unique in its pipeline.
        collector: With its options.
        timeout_s: Deadline, from the start of the step.
        limits: What the gate holds the step to.
        budget: Maximum that the step may use.
        when: Conditions on the marker; the step is skipped if they do not hold.
        required: Whether the incident is incomplete without this step.
    """

    id: str
    collector: Collector
    timeout_s: float
    limits: GateLimits
    budget: Budget
    when: Conditions = ALWAYS
    required: bool = True

    @property
    def is_light(self) -> bool:
        """Whether it never waits; a light step with its own floor waits its turn, as bulk does."""
        return self.budget.step_class is StepClass.LIGHT and not self.limits.floor_bytes

    @property
    def is_cached(self) -> bool:
        """Whether it waits for nobody's bulk: it reads a few MiB of a disk. With its own floor it waits its turn."""
        return self.budget.step_class is StepClass.CACHED and not self.limits.floor_bytes

    @property
    def reads_first(self) -> bool:
        """Whether it, or its head, is read before anything waits."""
        return self.is_light or (self.collector.footprint.light_head and not self.limits.floor_bytes)

    @property
    def held(self) -> HeldUse:
        """What it needs of a crashed process that is held."""
        return self.collector.footprint.held

    @property
    def receives_dump(self) -> bool:
        """Whether it takes a dump in full: a collector that takes less says so by ``receives_dump = False``."""
        return self.held is HeldUse.DUMP and bool(getattr(self.collector, "receives_dump", True))

    @property
    def reading_budget(self) -> Budget:
        """What reading it adds; its bulk comes later."""
        return msgspec.structs.replace(self.budget, step_class=StepClass.LIGHT)

    @property
    def reading_timeout_s(self) -> float:
        """How long reading it may take; of a bulk step only the small head is read."""
        return self.timeout_s if self.budget.step_class is StepClass.LIGHT else min(self.timeout_s, HEAD_TIMEOUT_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """
    Steps in the order of the file.

    Args:
        name: Its key in the file.
        steps: The light ones are read first; the others run one after the other.
        timeout_s: An incident that takes longer is sealed as it is.
        left_out: Steps whose conditions a crash does not meet, and why not; see `steps_for`.
        over_budget: The budget that was exceeded, so that this runs in place of another pipeline.
        forgone: The steps that do not run for that reason.
    """

    name: str
    steps: tuple[Step, ...]
    timeout_s: float = 1800.0
    left_out: tuple[tuple[Step, str], ...] = ()
    over_budget: str = ""
    forgone: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledTrigger(Generic[T]):
    """A configured trigger, ready to open. *pipeline* names what runs when it fires."""

    id: str
    trigger: T
    pipeline: str


def steps_for(pipeline: Pipeline, marker: Marker) -> Pipeline:
    """Return *pipeline* without the steps whose conditions *marker* does not meet: these are its `left_out`."""
    judged = [(step, step.when.holds(marker)) for step in pipeline.steps]
    return dataclasses.replace(
        pipeline,
        steps=tuple(step for step, why in judged if why is None),
        left_out=tuple((step, why) for step, why in judged if why is not None),
    )


def select_steps(pipeline: Pipeline, only: Collection[str]) -> Pipeline:
    """
    Return *pipeline* with only the steps named, by id or by collector; all of them if *only* is empty.

    Raises:
        UsageError: If it has no step of that name.
    """
    known = [step.id for step in pipeline.steps]
    if unknown := [name for name in only if not any(_is(step, name) for step in pipeline.steps)]:
        raise UsageError(
            f"pipeline {pipeline.name!r} has no step {unknown[0]!r}", hint=f"its steps are {', '.join(known)}"
        )
    if not only:
        return pipeline
    steps = tuple(step for step in pipeline.steps if any(_is(step, name) for name in only))
    return dataclasses.replace(pipeline, steps=steps)


def _is(step: Step, name: str) -> bool:
    return name in (step.id, step.collector.name)
