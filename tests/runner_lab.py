"""A runner with real workers, for test collectors."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from collector.archive.read import ArchiveReader
from collector.host.held_process import HeldProcess
from collector.host.identity import identify
from collector.model.copying import CopySettings
from collector.model.incident import IncidentHeader, Manifest, StepRecord
from collector.model.pressure import Budget, GateLimits, Policy, StepClass
from collector.model.redaction import Redaction
from collector.model.units import Reserve
from collector.pipeline.generation import RunSettings
from collector.pipeline.steps import Pipeline, Step
from collector.pressure.sampler import Sampler
from collector.runner import events
from collector.runner.coroutine import Task, drive
from collector.runner.incident_run import open_header
from collector.runner.pool import Pool
from collector.runner.replies import Done
from collector.runner.runner import Runner
from collector.triggers.manual import manual_marker

OPEN = GateLimits(floor_bytes=0, on_pressure=Policy.PROCEED, wait_s=0.0)


class Lab:
    """Runs pipelines and reads what they archived; with *step_class*, all steps have that class."""

    def __init__(self, pool: Pool, archive: Path, step_class: StepClass | None = None) -> None:
        self.pool = pool
        self.archive = archive
        self.step_class = step_class
        self.limits = OPEN
        self.reserve = Reserve(size_bytes=0)
        self.held: Callable[[], HeldProcess | None] = lambda: None
        self.marker = manual_marker("test", (), uid=os.getuid())
        self.events: list[events.AnyEvent] = []
        self.on_event: Callable[[events.AnyEvent], None] = lambda _: None

    @property
    def settings(self) -> RunSettings:
        return RunSettings(
            archive=str(self.archive), reserve=self.reserve, copy=CopySettings(rate="max"), redaction=Redaction()
        )

    def runner(self) -> Runner:
        return Runner(self.pool, Sampler(), self._receive)

    def _receive(self, event: events.AnyEvent) -> None:
        self.events.append(event)
        self.on_event(event)

    def pipeline(
        self, *collectors: object, timeout_s: float = 10.0, limits: GateLimits | None = None, incident_s: float = 60.0
    ) -> Pipeline:
        steps = tuple(
            Step(
                id=f"step{n}",
                collector=one,  # type: ignore[arg-type]
                timeout_s=timeout_s,
                limits=limits or self.limits,
                budget=Budget(
                    step_class=self.step_class or one.footprint.step_class,  # type: ignore[attr-defined]
                    memory_bytes=0,
                ),
            )
            for n, one in enumerate(collectors)
        )
        return Pipeline(name="test", steps=steps, timeout_s=incident_s)

    def header(self, pipeline: Pipeline) -> IncidentHeader:
        return open_header((self.marker,), pipeline, identity=identify(), config_hash="-", now_s=time.time())

    def run(self, *collectors: object, **how: object) -> Done:
        pipeline = self.pipeline(*collectors, **how)  # type: ignore[arg-type]
        return drive(self.incident(pipeline))

    def incident(self, pipeline: Pipeline) -> Task[Done]:
        """Return the task that runs *pipeline* for the marker, and for the process that is held, if one is."""
        return self.runner().incident(self.header(pipeline), pipeline, self.settings, held=self.held)

    def manifest(self, outcome: Done) -> Manifest:
        assert outcome.incident is not None, outcome.reason
        with ArchiveReader(str(self.archive)) as archive:
            return archive.manifest(outcome.incident)

    def collect(self, *collectors: object, **how: object) -> Manifest:
        return self.manifest(self.run(*collectors, **how))

    def steps(self, *collectors: object, **how: object) -> list[StepRecord]:
        return list(self.collect(*collectors, **how).steps)

    def content(self, manifest: Manifest, path: str) -> bytes:
        return (self.archive / manifest.id / path).read_bytes()
