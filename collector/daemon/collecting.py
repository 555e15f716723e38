"""The incidents under way in the daemon: each is begun, collected, archived, and its markers are told."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec

from collector.daemon.event_sink import EventSink
from collector.daemon.holding import Holding
from collector.daemon.idle_work import IdleWork
from collector.daemon.intake import Intake, Work
from collector.daemon.loop import Loop
from collector.daemon.messages import reply_of
from collector.host.identity import MachineIdentity
from collector.pipeline.generation import Generation
from collector.pressure.sampler import Sampler
from collector.runner.coroutine import Task
from collector.runner.housekeeping import prune
from collector.runner.incident_run import open_header
from collector.runner.pool import Pool, ensure_worker
from collector.runner.recorder_step import with_recorder
from collector.runner.replies import Done
from collector.runner.runner import Runner


@dataclass(slots=True, kw_only=True)
class Collecting:
    """
    Runs what the intake has admitted.

    Args:
        generation: Returns the configuration in force.
        changed: Called when an incident has begun or ended.
        ended: Called, too, when one has ended and all of its work is done.
    """

    loop: Loop
    pool: Pool
    sampler: Sampler
    runner: Runner
    events: EventSink
    holding: Holding
    idle_work: IdleWork
    identity: MachineIdentity
    generation: Callable[[], Generation]
    changed: Callable[[], None]
    ended: Callable[[], None]
    pipelines: list[str] = field(default_factory=list)
    """Those of the incidents under way."""

    def begin(self, intake: Intake) -> None:
        """Begin all incidents that are due: their light evidence is read now, beside another one's bulk copy."""
        while (work := intake.next()) is not None:
            self.pipelines.append(work.pipeline.name)
            self.pool.interrupt()
            self.changed()
            self.loop.spawn(self._collect(work, intake), partial(self._collected, work, intake))

    def _collect(self, work: Work, intake: Intake) -> Task[Done]:
        generation = self.generation()  # a reload meanwhile is for the next incident
        pipeline = with_recorder(work.pipeline, generation)
        header = open_header(
            work.markers,
            pipeline,
            identity=self.identity,
            config_hash=generation.loaded.hash,
            now_s=time.time(),
            owner=work.case.owner,
            labels=generation.loaded.config.labels,
        )
        if work.continues is not None:
            header = msgspec.structs.replace(header, id=work.continues)
        intake.begun(work, header.id)
        self.events.follow(header.id, work.case, work.client)
        outcome = yield from self.runner.incident(
            header,
            pipeline,
            generation.settings,
            markers=lambda: work.markers,
            held=lambda: self.holding.of(work.case),
            continues=work.continues is not None,
        )
        self.events.leave(header.id)
        if outcome.incident is not None:
            yield from ensure_worker(self.pool, self.sampler)
            pruned = yield from prune(self.pool, generation, spare=outcome.incident)
            self.idle_work.maintenance.pruned(pruned)
        return outcome

    def _collected(self, work: Work, intake: Intake, outcome: Done) -> None:
        intake.finished(work, outcome)
        if work.client is not None:
            work.client.end(reply_of(outcome))
        if outcome.incident is not None:
            self.idle_work.archived(outcome.incident, work.case.owner)
        self.loop.spawn(self.pool.release(), lambda _: self._ended(work))

    def _ended(self, work: Work) -> None:
        self.pipelines.remove(work.pipeline.name)
        self.changed()
        self.ended()
