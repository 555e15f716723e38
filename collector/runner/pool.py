"""
The pool of workers, forked while the machine was well.

A job has an absolute deadline; past it, its worker is killed. A worker that does not die even then (it is in
uninterruptible sleep in the kernel) is abandoned, never waited for.
"""

from __future__ import annotations

import contextlib
import gc
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from collector.config.spec import RuntimeSettings
from collector.model.incident import StepStatus
from collector.model.pressure import Budget, Decision, GateLimits, Policy, StepClass
from collector.model.units import Bytes, Seconds
from collector.pressure.gate import decide
from collector.pressure.sampler import Sampler
from collector.runner.coroutine import Task, Wait, sleep, until
from collector.runner.protocol import INTERRUPT, STOP, Job, Release
from collector.runner.replies import Done, Progress
from collector.runner.worker_process import JobResult, WorkerLostError, WorkerProcess, fork_worker

KILL_GRACE_S = 1.0
"""How long a killed worker may take to die; a process that maps 64 MiB exits in 5 ms."""

RELEASE_S = 2.0

FORK_BUDGET = Budget(step_class=StepClass.DIRECT, memory_bytes=16 << 20)
"""What a new worker may need: twice the 8 MiB of private memory that a warm one has."""

FORK_LIMITS = GateLimits(floor_bytes=Bytes(0), on_pressure=Policy.SKIP, wait_s=Seconds(0.0))
"""A worker is forked where there is room for it and no severe distress."""

FORK_WAIT_S = 30.0
"""How long an incident that has lost all workers waits for a new one: without it nothing more can be archived."""

PAUSES_S = (0.01, 0.25)
"""First and longest pause between two checks for an idle worker: usually one is free soon, and evidence waits."""


class Claim:
    """
    A worker reserved for the light evidence of one incident, and the memories that the evidence was read into,
    including those of workers that the reading has killed.
    """

    def __init__(self) -> None:
        self.worker: WorkerProcess | None = None
        self.memories: list[int] = []
        """Descriptors of the spools, oldest first."""

    def hold_memory(self) -> None:
        """Keep the worker's memory, which is about to be read into; this takes no further descriptor."""
        if self.worker is not None:
            self.worker.memory_held = True
            self.memories.append(self.worker.memory_fd)

    def release_memories(self) -> None:
        """Close the memories of lost workers; that of a living worker stays its own."""
        for fd in self.memories:
            if self.worker is not None and fd == self.worker.memory_fd:
                self.worker.memory_held = False
            else:
                os.close(fd)
        self.memories = []


class Pool:
    """Warm workers, *size* of them."""

    def __init__(self, size: int, settings: RuntimeSettings) -> None:
        self.size = size
        self._settings = settings
        self._idle: list[WorkerProcess] = []
        self._busy: list[WorkerProcess] = []
        self.abandoned: list[int] = []
        """Process ids of workers that were killed and have not died."""
        self.abandoned_ever = 0
        self._unreleased: list[int] = []
        self._past: deque[int] = deque(maxlen=8)
        self._stop_at_s = float("inf")

    @property
    def idle(self) -> int:
        """Number of workers that wait for a job."""
        return len(self._idle)

    @property
    def living(self) -> tuple[int, ...]:
        """Process ids of all workers that have not been waited for, those that hang included."""
        return (*(worker.pid for worker in (*self._idle, *self._busy)), *self.abandoned)

    @property
    def busy(self) -> tuple[int, ...]:
        """Process ids of the workers that have a job or are reserved for an incident."""
        return tuple(worker.pid for worker in self._busy)

    @property
    def missing(self) -> int:
        """Number of workers to fork until there are `size`."""
        return max(0, self.size - len(self._idle) - len(self._busy))

    @property
    def pids(self) -> list[int]:
        """Process ids of all workers and of the last few lost: the kernel may yet report their death."""
        return [worker.pid for worker in (*self._idle, *self._busy)] + [*self.abandoned, *self._past]

    @property
    def stopping(self) -> bool:
        return self._stop_at_s != float("inf")

    def stop(self, at_s: float) -> None:
        """End copies at their next chunk, and every stoppable job by *at_s* (monotonic): the program must end."""
        self._stop_at_s = min(self._stop_at_s, at_s)
        for worker in self._busy:
            worker.send(STOP)

    def interrupt(self) -> None:
        """Ask for the workers whose job can wait: they end it soon, with what they have."""
        for worker in self._busy:
            worker.send(INTERRUPT)

    def fill(self, size: int | None = None) -> None:
        """
        Fork until *size* workers are idle; by default, as many as are `missing`.

        Called at the start and between incidents; during one only if no worker is left and the gate is open.

        Raises:
            OSError: ``EMFILE``, ``EAGAIN`` or ``ENOMEM``, if no further worker can be forked now.
        """
        self.reap()
        wanted = len(self._idle) + self.missing if size is None else size
        if len(self._idle) < wanted:
            gc.collect()
            gc.freeze()  # the garbage collector would otherwise touch, and so copy, every shared page
        while len(self._idle) < wanted:
            self._idle.append(fork_worker(self._settings))

    @contextlib.contextmanager
    def widened(self) -> Iterator[None]:
        """Have one worker more, once it is needed and may be forked: two copies must not delay what is read first."""
        self.size += 1
        try:
            yield
        finally:
            self.size -= 1
            while self._idle and len(self._idle) + len(self._busy) > self.size:
                self._drop(self._idle[-1])

    def serve(self, claim: Claim) -> None:
        """Give *claim* a worker if it has none and one is idle; it keeps that worker until `release_claim`."""
        self.reap()
        if claim.worker is None and self._idle:
            claim.worker = self._idle.pop()
            self._busy.append(claim.worker)

    def release_claim(self, claim: Claim) -> None:
        """Make the claim's worker idle again and release its memories."""
        claim.release_memories()
        if claim.worker is not None:
            self._busy.remove(claim.worker)
            self._idle.append(claim.worker)
            claim.worker = None

    def perform(
        self,
        job: Job,
        *,
        deadline_s: float,
        progress: Callable[[Progress], None] = lambda _: None,
        stoppable: bool = False,
        claim: Claim | None = None,
        fds: Sequence[int] = (),
    ) -> Task[JobResult]:
        """
        Run *job* in a worker and return how it ended; never raises for what the worker does.

        Args:
            job: What to do.
            deadline_s: Monotonic; the worker is killed then.
            progress: Called with how far it is, at most ten times a second.
            stoppable: `stop` ends the job.
            claim: Use only the worker that it holds.
            fds: Descriptors that go with the job; they stay the caller's.
        """
        mine = claim or Claim()
        self.serve(mine)  # drops workers that died while idle (SIGKILL, the OOM killer): they must not cost this job
        worker = mine.worker
        if worker is None:
            return JobResult(Done(status=StepStatus.FAILED, reason="no worker is left", exit_code=70))

        def overdue() -> str:
            if time.monotonic() >= deadline_s:
                return "the deadline passed"
            return "the collector was stopped" if stoppable and time.monotonic() >= self._stop_at_s else ""

        try:
            result = yield from worker.perform(job, fds, deadline_s=deadline_s, progress=progress, overdue=overdue)
            if result.done.tainted:
                yield from self._lose(worker, StepStatus.OK, "")
        except WorkerLostError as exc:
            result = yield from self._lose(worker, exc.status, exc.reason)
        if worker not in self._busy:
            mine.worker = None
        if claim is None:
            self.release_claim(mine)
        return result

    def release(self) -> Task[None]:
        """
        Free the memory of abandoned workers: 8 MiB each, which they would hold for as long as they hang.

        A worker does it, between incidents, because it takes their ``mmap_lock``. If the kernel refuses for now
        (``EAGAIN``), the next call tries again; if it kills the worker that tries, nothing does.
        """
        again = []
        while self._unreleased and self._idle:
            pid = self._unreleased.pop()
            result = yield from self.perform(Release(pid=pid), deadline_s=time.monotonic() + RELEASE_S)
            if result.done.status is StepStatus.FAILED and not result.died:
                again.append(pid)
        self._unreleased += again

    def close(self) -> None:
        """Kill all workers and reap those that die in time; one that hangs in the kernel delays no exit."""
        workers = (*self._idle, *self._busy)
        for worker in workers:
            worker.kill()
        until_s = time.monotonic() + KILL_GRACE_S
        for worker in workers:
            if until(Wait(worker.pidfd, until_s)):
                worker.reap()
            else:
                worker.close()
        self._idle, self._busy = [], []

    def reap(self) -> None:
        """Drop workers that died or were stopped while idle, and abandoned ones that have died at last."""
        for worker in list(self._idle):
            if not worker.is_well():
                self._drop(worker)
        for pid in list(self.abandoned):
            if os.waitpid(pid, os.WNOHANG)[0]:  # ours until it is waited for: the PID cannot be reused
                self.abandoned.remove(pid)
        self._unreleased = [pid for pid in self._unreleased if pid in self.abandoned]

    def _drop(self, worker: WorkerProcess) -> None:
        """Kill an idle worker."""
        self._idle.remove(worker)
        self._past.append(worker.pid)
        self.abandoned.append(worker.pid)  # until the kernel is done with it: immediately, as a rule
        worker.kill()
        worker.close()

    def _lose(self, worker: WorkerProcess, status: StepStatus, reason: str) -> Task[JobResult]:
        """Kill a worker; abandon it if it does not die."""
        self._busy.remove(worker)
        self._past.append(worker.pid)
        worker.kill()
        if (yield Wait(worker.pidfd, time.monotonic() + KILL_GRACE_S)):
            how = worker.reap()
            if status is StepStatus.FAILED:
                reason = f"{reason} ({how})"
            return JobResult(Done(status=status, reason=reason), died=True)
        self.abandoned.append(worker.pid)
        self.abandoned_ever += 1
        self._unreleased.append(worker.pid)
        worker.close()  # a hundred that hang must not cost the supervisor its descriptors
        reason = f"{reason}; process {worker.pid} hangs in the kernel and cannot be killed"
        return JobResult(Done(status=StepStatus.ABANDONED, reason=reason))


def may_fork(sampler: Sampler) -> bool:
    return decide(sampler.sample(), budget=FORK_BUDGET, limits=FORK_LIMITS).decision is Decision.PROCEED


def ensure_worker(pool: Pool, sampler: Sampler) -> Task[None]:
    """Wait until a worker is idle: another user returns one, or the gate lets one be forked; 30 s if all are lost."""
    pool.reap()
    until_s, pause_s = time.monotonic() + FORK_WAIT_S, PAUSES_S[0]
    while pool.idle == 0 and (pool.busy or time.monotonic() < until_s):
        if pool.missing and may_fork(sampler):
            with contextlib.suppress(OSError):  # out of processes or descriptors: try again
                pool.fill(1)
        if pool.idle == 0:
            yield from sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSES_S[1])
            pool.reap()
