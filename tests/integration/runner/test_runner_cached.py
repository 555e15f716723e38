"""When steps run that read through the page cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

import msgspec
import pytest
from runner_lab import Lab

from collector.collectors.base import Context
from collector.model.artifact import Artifact, Footprint
from collector.model.pressure import GateLimits, Policy, StepClass
from collector.pressure.sampler import Sampler
from collector.runner.pool import Pool
from collector.runner.runner import Runner


@dataclass(frozen=True, slots=True, kw_only=True)
class LightWitness:
    """Yields a byte."""

    name: ClassVar[str] = "light_witness"
    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.LIGHT, peak_bytes=1, timeout_s=5.0)

    def collect(self, ctx: Context) -> Iterator[Artifact]:
        yield Artifact(path=PurePosixPath("said"), body=b"x")


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkWitness(LightWitness):
    """The same, as a bulk step."""

    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.DIRECT, peak_bytes=1, timeout_s=5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedWitness(LightWitness):
    """The same, as a step that reads through the page cache."""

    footprint: ClassVar[Footprint] = Footprint(step_class=StepClass.CACHED, peak_bytes=1, timeout_s=5.0)


class MildlyDistressed(Sampler):
    """Finds the machine in mild distress, which stops cached steps and no bulk."""

    def tick(self) -> None:
        super().tick()
        last = self._history.ticks[-1]
        self._history.add(msgspec.structs.replace(last, allocstall=last.allocstall + 9))


@pytest.fixture
def lab(pool: Pool, scratch: Path) -> Lab:
    return Lab(pool, scratch / "archive")


def order(lab: Lab, *collectors: object) -> list[str]:
    """Return the steps in the order in which they were run."""
    steps = lab.steps(*collectors, limits=GateLimits(floor_bytes=0, on_pressure=Policy.SKIP, wait_s=0.0))
    return [f"{step.id} {step.status}" for step in sorted(steps, key=lambda step: step.started_s)]


def test_cached_step_comes_between_light_and_bulk(lab: Lab) -> None:
    """What is on a disk can wait for what is not; minutes of bulk must not make it wait."""
    expected = ["step2 ok", "step1 ok", "step0 ok"]
    assert order(lab, BulkWitness(), CachedWitness(), LightWitness()) == expected


def test_cached_step_in_distress_lets_bulk_go_first(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """It waits last: the files that are copied vanish, and the journal stays."""
    monkeypatch.setattr(lab, "runner", lambda: Runner(lab.pool, MildlyDistressed(), lab._receive))
    expected = ["step0 ok", "step2 ok", "step1 skipped"]
    assert order(lab, LightWitness(), CachedWitness(), BulkWitness()) == expected
