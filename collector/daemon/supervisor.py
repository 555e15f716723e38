"""The supervisor: one loop that listens, decides and delegates. It reads no evidence and writes no archive."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

import structlog

from collector import __version__
from collector.config.changes import Changes
from collector.config.load import find
from collector.daemon.activity import Board
from collector.daemon.control import Client, Control
from collector.daemon.intake import Intake, Work
from collector.daemon.journal import tell
from collector.daemon.loop import Loop
from collector.daemon.maintenance import Upkeep
from collector.daemon.messages import (
    PROTOCOL,
    ReloadRequest,
    Reply,
    Request,
    RunRequest,
    Status,
    StatusRequest,
    reply_of,
)
from collector.daemon.runtime_dir import hold
from collector.daemon.sdnotify import ServiceManager
from collector.daemon.signals import Signals
from collector.daemon.trigger_set import Watches
from collector.host import process
from collector.host.identity import identify
from collector.model.errors import ConfigError
from collector.pipeline.generation import generate
from collector.pipeline.run_types import RunOutcome
from collector.pressure.sampler import TICK_S, Sampler
from collector.runner import events
from collector.runner.coroutine import Task
from collector.runner.header import open_header
from collector.runner.housekeeping import prune, recover
from collector.runner.pool import Pool
from collector.runner.protocol import Done
from collector.runner.runner import Runner
from collector.runner.spare import have_worker
from collector.triggers.registry import TRIGGERS

OOM_SCORE_ADJ = -900
STOP_GRACE_S = 20.0
"""How long a running step may go on after SIGTERM; well within the unit's TimeoutStopSec."""

TEND_S = 5.0
"""How often to look for workers that are missing and markers that were lost."""

LOOK_AT_FILES_S = 1.0
"""How often to look for changed files, where the configuration asks for it."""

log = structlog.get_logger()


class Supervisor:
    """
    The daemon.

    Args:
        config: Path of the configuration; ``None``: the system's, or the packaged one while there is none.
        archive: Overrides ``archive.path``.

    Raises:
        ConfigError: If the configuration is wrong.
        DeniedError: If the runtime directory is not ours, or another daemon holds it.
    """

    def __init__(self, config: str | None, archive: str | None) -> None:
        self._config, self._archive = config, archive
        self._changes = Changes(find(config))
        self._generation = generate(find(config), TRIGGERS, archive=archive)
        self._config_problem: str | None = None
        self._lock = hold(self._generation.runtime_directory)
        self._since_s = time.time()
        self._identity = identify()
        self._manager = ServiceManager()
        self._sampler = Sampler()
        # First of all, while nothing is open that a fork would hand on.
        self._pool = Pool(self._generation.loaded.config.runtime.workers, self._generation.loaded.config.runtime)
        self._pool.fill()
        self._loop = Loop()
        self._board = Board()
        self._runner = Runner(self._pool, self._sampler, self._tell)
        self._clients: dict[str, Client] = {}
        """Who waits for an incident under way, by its id."""
        self._recovering = True  # until what an earlier run left behind is sealed
        self._collecting = 0
        """Incidents under way."""
        self._upkeep = Upkeep(
            self._loop,
            self._pool,
            self._sampler,
            generation=lambda: self._generation,
            busy=lambda: self._recovering or self._collecting > 0,
            tell=self._tell,
        )
        self._follows_files = False

    def run(self) -> None:
        """Turn the loop until SIGTERM."""
        process.set_oom_score_adj(OOM_SCORE_ADJ)
        process.lock_memory(future=True)
        handlers = {signal.SIGTERM: self._stop, signal.SIGINT: self._stop, signal.SIGHUP: self._reload}
        self._signals = Signals(self._loop, handlers)
        self._tick()
        self._loop.spawn(recover(self._pool, self._generation), self._recovered)
        self._loop.run()
        self._close()

    def _recovered(self, done: Done) -> None:
        """Open for business: only now, so that a marker's fate after a crash of ours is known first."""
        for incident, state in done.sealed.items():
            log.warning("incident.recovered", incident=incident, state=state)
        self._upkeep.owe_digests(done.sealed)
        if done.reason:
            log.error("archive.failed", error=done.reason, hint=done.hint)
        self._intake = Intake(self._generation, self._loop, self._next, self._own_pids)
        self._intake.resume(done.sealed)
        self._control = Control(self._loop, self._generation.runtime_directory, self._handle)
        self._watches = Watches(self._loop, self._intake)
        self._open_watches()
        self._recovering = False
        if self._pool.stopping:
            self._loop.stop()
            return
        self._manager.ready("watching")
        if not self._sampler.has_psi:
            log.warning("pressure.degraded", reason="this kernel has no PSI", hint="boot with psi=1")
        self._warn()
        log.info("daemon.started", version=__version__, config=self._generation.loaded.source, pid=os.getpid())
        if self._manager.watchdog_s is not None:
            self._ping(self._manager.watchdog_s)
        self._follow_files()
        self._loop.call_later(TEND_S, self._tend)
        self._next()
        self._upkeep.turn()

    def _tick(self) -> None:
        """Read what tells distress, so that the gate knows the seconds before a crash."""
        self._sampler.tick()
        self._loop.call_later(TICK_S, self._tick)

    def _own_pids(self) -> frozenset[int]:
        return frozenset((os.getpid(), *self._pool.pids))

    def _open_watches(self) -> None:
        self._watches.open(
            self._generation.triggers,
            ignore=(self._generation.settings.archive, self._generation.runtime_directory),
            runtime_directory=self._generation.runtime_directory,
        )

    def _next(self) -> None:
        """Begin all incidents whose turn it is: what is light of them is read at once, beside another one's bulk."""
        while not self._recovering and not self._pool.stopping and (work := self._intake.next()) is not None:
            self._collecting += 1
            self._pool.interrupt()
            self._manager.status(f"collecting: {work.pipeline.name}")
            self._loop.spawn(self._collect(work), partial(self._collected, work))

    def _collect(self, work: Work) -> Task[RunOutcome]:
        generation = self._generation  # a reload meanwhile is for the next incident
        header = open_header(
            work.markers,
            work.pipeline,
            identity=self._identity,
            config_hash=generation.loaded.hash,
            now_s=time.time(),
        )
        self._intake.begun(work, header.id)
        if work.client is not None:
            self._clients[header.id] = work.client
        outcome = yield from self._runner.incident(
            header, work.pipeline, generation.settings, markers=lambda: work.markers
        )
        self._clients.pop(header.id, None)
        if outcome.incident is not None:
            yield from have_worker(self._pool, self._sampler)
            pruned = yield from prune(self._pool, generation, spare=outcome.incident)
            self._upkeep.pruned(pruned)
        return outcome

    def _collected(self, work: Work, outcome: RunOutcome) -> None:
        self._intake.finished(work, outcome)
        if work.client is not None:
            work.client.end(reply_of(outcome))
        if outcome.incident is not None:
            self._upkeep.owe_digests((outcome.incident,))
        self._loop.spawn(self._pool.release(), lambda _: self._ready())

    def _ready(self) -> None:
        """Turn to what is next: another incident, or the digests of those archived."""
        self._collecting -= 1
        if not self._collecting:
            self._manager.status("watching")
            if self._pool.stopping:
                self._loop.stop()
        if self._pool.stopping:
            return
        self._upkeep.refill()
        self._next()
        self._upkeep.turn()

    def _tend(self) -> None:
        """Every few seconds: count what triggers say they have lost, and replace workers that were lost."""
        self._intake.lost(self._watches.lost())
        self._upkeep.turn()
        self._loop.call_later(TEND_S, self._tend)

    def _handle(self, client: Client, request: Request) -> None:
        match request:
            case StatusRequest():
                client.send(self._status())
                client.sock.close()
            case ReloadRequest():
                self._reload()
                problem = self._config_problem
                client.end(Reply(exit_code=78, message=problem) if problem else Reply())
            case RunRequest():
                self._intake.by_hand(request, client)

    def _status(self) -> Status:
        sample = self._sampler.sample()
        return Status(
            protocol=PROTOCOL,
            version=__version__,
            pid=os.getpid(),
            since_s=self._since_s,
            config_hash=self._generation.loaded.hash,
            config_source=self._generation.loaded.source,
            config_problem=self._config_problem,
            archive=self._generation.settings.archive,
            running=self._board.running,
            queued=self._intake.queued,
            workers_idle=self._pool.idle,
            workers_abandoned=tuple(self._pool.abandoned),
            sample=sample,
            available_bytes=sample.available_bytes,
            triggers=self._watches.states,
            lost=self._intake.lost(self._watches.lost()),
            fates=self._intake.fates(),
            recent=tuple(self._board.recent),
            ledger_problem=self._intake.problem,
        )

    def _tell(self, event: events.AnyEvent) -> None:
        """Receive an event of the runner."""
        self._board.follow(event)
        tell(event)
        if (client := self._clients.get(event.incident)) is not None:
            client.send(event)

    def _reload(self) -> None:
        """Read the configuration again; a bad one changes nothing and is told."""
        self._manager.reloading()
        self._changes.loading()
        try:
            generation = generate(find(self._config), TRIGGERS, archive=self._archive)
        except ConfigError as exc:
            self._config_problem = str(exc)
            problems = [str(problem) for problem in exc.diagnostics]
            log.error("config.refused", problems=problems)  # noqa: TRY400 - a mistake in a file has no traceback
        else:
            self._config_problem = None
            self._generation = generation
            self._open_watches()
            self._intake.configure(generation)
            log.info("config.loaded", config=generation.loaded.source, hash=generation.loaded.hash)
            self._warn()
            if not self._follows_files:
                self._follow_files()
        self._manager.ready("watching")

    def _warn(self) -> None:
        """Tell of what the configuration in force says in vain."""
        for problem in self._generation.warnings:
            log.warning("config.warning", problem=str(problem))

    def _follow_files(self) -> None:
        """Look for changed files now and then, as long as the configuration in force asks for it."""
        self._follows_files = self._generation.loaded.config.runtime.reload_on_change
        if not self._follows_files:
            return
        if self._changes.due():
            self._reload()
        self._loop.call_later(LOOK_AT_FILES_S, self._follow_files)

    def _stop(self) -> None:
        """Finish what runs, seal it, and go."""
        log.info("daemon.stopping", running=[running.incident for running in self._board.running])
        self._manager.stopping()
        self._pool.stop(time.monotonic() + STOP_GRACE_S)
        if not self._recovering and not self._collecting:
            self._loop.stop()

    def _close(self) -> None:
        self._watches.close()
        self._control.close()
        self._intake.close()
        self._pool.close()
        log.info("daemon.stopped")

    def _ping(self, period_s: float) -> None:
        self._manager.ping()
        self._loop.call_later(period_s, lambda: self._ping(period_s))
