"""What compilation makes of the YAML file: steps that can be run as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from collector.collectors.base import Collector
from collector.model.pressure import Budget, Limits
from collector.pipeline.conditions import ALWAYS, Conditions

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """
    A configured use of a collector, ready to run.

    Args:
        id: Unique in its pipeline.
        collector: With its options.
        timeout_s: Deadline, from the start of the step.
        limits: What the gate holds the step to.
        budget: What the step may use at most.
        when: What must hold of the marker, or the step is skipped.
        required: Whether the incident is incomplete without this step.
    """

    id: str
    collector: Collector
    timeout_s: float
    limits: Limits
    budget: Budget
    when: Conditions = ALWAYS
    required: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """
    Steps in the order of the file.

    Args:
        name: Its key in the file.
        steps: Run one after the other.
        timeout_s: The incident is sealed with what it has when so much time has passed.
        let_smaller_first: While a step waits for memory, later steps with a smaller budget may go first.
    """

    name: str
    steps: tuple[Step, ...]
    timeout_s: float = 1800.0
    let_smaller_first: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledTrigger(Generic[T]):
    """A configured trigger, ready to open. *pipeline* names what runs when it fires."""

    id: str
    trigger: T
    pipeline: str
