"""What compilation makes of the YAML file: steps that can be run as they are."""

from __future__ import annotations

from dataclasses import dataclass

from collector.collectors.base import Collector
from collector.model.pressure import Budget, Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A configured use of a collector, ready to run."""

    id: str
    collector: Collector
    timeout_s: float
    limits: Limits
    budget: Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Steps in the order of the file."""

    name: str
    steps: tuple[Step, ...]
