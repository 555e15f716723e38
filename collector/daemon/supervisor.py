"""The supervisor: one loop that watches, decides and delegates. It reads no evidence and writes no archive."""

from __future__ import annotations

import os
import signal
import time

from collector import __version__
from collector.archive import layout
from collector.archive.ledger import Ledger
from collector.daemon.answers import Answers
from collector.daemon.collecting import Collecting
from collector.daemon.event_sink import EventSink
from collector.daemon.flight_recorder import FlightRecorder
from collector.daemon.holding import Holding
from collector.daemon.idle_work import IdleWork
from collector.daemon.intake import Intake
from collector.daemon.journal import get_logger
from collector.daemon.limits import Limits
from collector.daemon.loop import Loop
from collector.daemon.members import Members
from collector.daemon.metrics import Metrics
from collector.daemon.recovery import Recovery
from collector.daemon.reload import Configuration
from collector.daemon.runtime_directory import RuntimeDirectory
from collector.daemon.sdnotify import ServiceManager
from collector.daemon.status_line import status_line
from collector.daemon.status_report import StatusReport
from collector.daemon.stopping import Stopping
from collector.daemon.trigger_set import TriggerSet
from collector.host import capabilities, process
from collector.host.identity import identify
from collector.host.shared_recording import share
from collector.pipeline.generation import Generation
from collector.pressure.sampler import TICK_S, Sampler
from collector.runner.pool import Pool, may_fork
from collector.runner.replies import Done
from collector.runner.runner import Runner
from collector.runner.worker import WORKERS_ONLY

TEND_S = 5.0
"""Interval at which missing workers are replaced, and lost markers and lost sources noticed."""

CHECK_FILES_S = 1.0
"""Interval at which the configuration's files are checked for changes, if `reload_on_change` is set."""

log = get_logger()


class Supervisor:
    """
    The daemon.

    Args:
        config: Path of the configuration; ``None``: the system's, or the packaged one while there is none.
        archive: Overrides ``archive.path``.

    Raises:
        ConfigError: If the configuration is invalid.
        DeniedError: If the runtime directory is not this user's alone, or another daemon has locked it.
    """

    def __init__(self, config: str | None, archive: str | None) -> None:
        self._manager = ServiceManager()
        self._configuration = Configuration(config, archive)
        self._directory = RuntimeDirectory(self._generation)
        identity = identify()
        self._sampler = Sampler()
        capabilities.set_aside(*WORKERS_ONLY)
        recording = share(self._generation.recorder)
        # First of all, while nothing is open that a fork would inherit.
        runtime = self._generation.loaded.config.runtime
        self._pool = Pool(runtime.workers, runtime)
        self._pool.fill()
        self._loop = Loop()
        self._limits = Limits(self._loop)
        self._holding = Holding(self._loop)
        self._recovering = True  # until the incidents of an earlier run are sealed
        self._recorder = FlightRecorder(
            recording,
            loop=self._loop,
            pool=self._pool,
            sampler=self._sampler,
            archive=self._generation.settings.archive,
            busy=self._busy,
        )
        self._events = EventSink(self._recorder.note)
        self._report = StatusReport(
            configuration=self._configuration,
            pool=self._pool,
            sampler=self._sampler,
            activity=self._events.activity,
            limits=self._limits,
            holding=self._holding,
            recorder=self._recorder,
            handovers=lambda: self._idle_work.handovers.counts,
        )
        self._metrics = Metrics(self._loop, self._events.counters, self._report, self._may_fork)
        self._idle_work = IdleWork(
            loop=self._loop,
            pool=self._pool,
            sampler=self._sampler,
            events=self._events,
            generation=lambda: self._generation,
            busy=self._busy,
            tell=lambda one: self._triggers.cores_removed(one),  # noqa: PLW0108 - they come later
            handed_over=lambda: self._stopping.end_if_idle(),  # noqa: PLW0108 - likewise
        )
        self._recovery = Recovery(
            loop=self._loop,
            pool=self._pool,
            maintenance=self._idle_work.maintenance,
            archive=self._generation.settings.archive,
            boot_id=identity.boot_id,
        )
        self._collecting = Collecting(
            loop=self._loop,
            pool=self._pool,
            sampler=self._sampler,
            runner=Runner(self._pool, self._sampler, self._events, self._recorder.mark),
            events=self._events,
            holding=self._holding,
            idle_work=self._idle_work,
            identity=identity,
            generation=lambda: self._generation,
            changed=self._show_status,
            ended=self._ended,
        )
        self._stopping = Stopping(
            loop=self._loop,
            pool=self._pool,
            manager=self._manager,
            busy=lambda: bool(self._collecting.pipelines),
            handing_over=lambda: self._idle_work.handovers.working,
            running=lambda: tuple(running.incident for running in self._events.activity.running),
            grace_s=lambda: self._generation.loaded.config.runtime.stop_grace_s,
            leave=self._leave,
        )

    def run(self) -> None:
        """Run until SIGTERM."""
        process.never_dump()  # the kernel would wait for this very process to take its dump
        process.set_oom_score_adj(process.OOM_LAST)
        process.lock_memory(future=True)
        self._loop.handle_signals({signal.SIGTERM: self._stop, signal.SIGINT: self._stop, signal.SIGHUP: self._reload})
        # Always: the gate must know the seconds before a crash.
        self._loop.call_every(TICK_S, self._tick)
        self._recovery.begin(self._recovered)
        self._loop.run()
        self._close()

    def _tick(self) -> None:
        self._sampler.tick()
        self._recorder.tick()

    @property
    def _generation(self) -> Generation:
        return self._configuration.generation

    def _recovered(self, done: Done) -> None:
        """Start watching: only now, when the fate of each marker of a killed run is known."""
        self._ledger = Ledger(os.path.join(self._generation.settings.archive, layout.LEDGER))
        self._intake = Intake(
            self._ledger,
            self._generation,
            self._loop,
            self._next,
            self._own_pids,
            limits=self._limits,
            holding=self._holding,
            counters=self._events.counters,
        )
        self._recovery.resume(self._intake, done)
        self._triggers = TriggerSet(
            self._loop,
            self._intake,
            self._ledger,
            holding=self._holding,
            limits=self._limits,
            changed=self._show_status,
            descriptors=self._manager.descriptors,
        )
        self._serve()
        self._triggers.open(self._generation)
        self._recovering = False
        if self._pool.stopping:  # since before this
            self._loop.stop()
            return
        self._manager.ready(self._status_line())
        if not self._sampler.has_psi:
            log.warning("pressure.degraded", reason="this kernel has no PSI", hint="boot with psi=1")
        self._configuration.warn()
        log.info("daemon.started", version=__version__, config=self._generation.loaded.source, pid=os.getpid())
        if self._manager.watchdog_s is not None:
            self._loop.call_every(self._manager.watchdog_s, self._manager.ping)
        self._loop.call_every(CHECK_FILES_S, self._follow_files)
        self._metrics.start(self._intake, self._ledger, self._triggers)
        self._next()
        self._idle_work.handovers.turn()
        self._loop.call_every(TEND_S, self._tend)

    def _serve(self) -> None:
        """Answer requests from now on."""
        members = Members(self._loop, self._pool, self._generation.settings.archive, self._busy)
        answers = Answers(
            report=self._report,
            recorder=self._recorder,
            metrics=self._metrics,
            intake=self._intake,
            ledger=self._ledger,
            triggers=self._triggers,
            configuration=self._configuration,
            reload=self._reload,
            ending=lambda: self._stopping.ending,
            drained=self._drained,
        )
        self._directory.serve(self._loop, answers.handle, members.handle)

    def _drained(self) -> None:
        self._show_status()
        self._next()

    def _busy(self) -> bool:
        return self._recovering or self._stopping.ending or bool(self._collecting.pipelines)

    def _may_fork(self) -> bool:
        return not self._busy() and may_fork(self._sampler)

    def _own_pids(self) -> frozenset[int]:
        return frozenset((os.getpid(), *self._pool.pids, *self._holding.pids, *self._metrics.pids))

    def _status_line(self) -> str:
        waiting = None if self._intake.drained_s is None else self._intake.queued
        problem = self._configuration.problem
        ledger = "" if self._ledger.problem is None else "the ledger is kept in memory"
        workers = "" if self._pool.idle or self._pool.busy else "no worker can be forked"
        faults = [fault for fault in (ledger, workers) if fault]
        return status_line(waiting, problem, self._collecting.pipelines, self._triggers.states, faults)

    def _show_status(self) -> None:
        if not self._stopping.begun:
            self._manager.status(self._status_line())

    def _next(self) -> None:
        if not self._stopping.ending and not self._recovering:
            self._collecting.begin(self._intake)

    def _ended(self) -> None:
        """Go on with the next incident, or with maintenance."""
        if self._stopping.ending:
            self._stopping.end_if_idle()
            return
        self._idle_work.maintenance.refill()
        self._next()
        self._idle_work.turn()

    def _tend(self) -> None:
        self._directory.check()
        self._triggers.check()
        self._idle_work.turn()
        self._show_status()

    def _reload(self) -> None:
        """Load the configuration again; during recovery its triggers are not open yet."""
        if self._stopping.ending:
            return
        if self._recovering:
            self._configuration.reload()
            return
        self._manager.reloading()
        if self._configuration.reload():
            self._triggers.open(self._generation)
            self._intake.configure(self._generation)
            self._idle_work.reloaded()
        self._manager.ready(self._status_line())
        self._metrics.write()

    def _follow_files(self) -> None:
        if self._configuration.is_outdated:
            self._reload()

    def _stop(self) -> None:
        if not self._recovering:
            self._stopping.signalled()
        else:  # nothing is under way: `_recovered` ends it
            self._manager.stopping()
            self._pool.stop(time.monotonic())

    def _leave(self) -> None:
        """Let crashes that can wait for the next run do so."""
        self._triggers.leave()
        self._holding.leave()

    def _close(self) -> None:
        self._metrics.close()
        self._triggers.close()
        self._holding.close()
        self._directory.close()
        self._ledger.close()
        self._pool.close()
        self._stopping.ended()
        log.info("daemon.stopped")
