"""The daemon's state, put together from its parts for ``collector status``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from collector import __version__
from collector.archive.ledger import Ledger
from collector.daemon.activity import Activity
from collector.daemon.flight_recorder import FlightRecorder
from collector.daemon.holding import Holding
from collector.daemon.intake import Intake
from collector.daemon.limits import Limits
from collector.daemon.messages import PROTOCOL, Status
from collector.daemon.reload import Configuration
from collector.daemon.trigger_set import TriggerSet
from collector.pressure.sampler import Sampler
from collector.runner.pool import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport:
    """The parts that are there from the start; the others come with the request."""

    configuration: Configuration
    pool: Pool
    sampler: Sampler
    activity: Activity
    limits: Limits
    holding: Holding
    recorder: FlightRecorder
    handovers: Callable[[], dict[str, int]]
    since_s: float = field(default_factory=time.time)

    def status(self, intake: Intake, ledger: Ledger, triggers: TriggerSet) -> Status:
        """Return the present state."""
        triggers.check()
        sample, second = self.sampler.sample(), self.recorder.second()
        generation = self.configuration.generation
        return Status(
            protocol=PROTOCOL,
            version=__version__,
            pid=os.getpid(),
            since_s=self.since_s,
            config_hash=generation.loaded.hash,
            config_source=generation.loaded.source,
            config_problem=self.configuration.problem,
            after_restart=self.configuration.after_restart,
            archive=generation.settings.archive,
            running=self.activity.running,
            queued=intake.queued,
            workers_idle=self.pool.idle,
            workers_abandoned=tuple(self.pool.abandoned),
            sample=sample,
            available_bytes=sample.available_bytes,
            triggers=triggers.states,
            lost=ledger.lost(),
            fates=ledger.counts(),
            recent=tuple(self.activity.recent),
            ledger_problem=ledger.problem,
            limits=self.limits.counts,
            crashed_held=self.holding.count,
            handovers=self.handovers(),
            drained_s=intake.drained_s,
            draining=intake.draining if intake.drained_s is not None else 0,
            second=None if second is None else second.by_name(),
        )
