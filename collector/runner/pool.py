"""
The pool: workers forked while the machine was well.

A job runs against an absolute deadline. Past it the worker is killed; one that does not even die
(it sleeps uninterruptibly in the kernel) is abandoned, never waited for.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from collector.config.spec import RuntimeSettings
from collector.copying.buffers import POOL_BYTES
from collector.model.incident import StepStatus
from collector.runner import worker
from collector.runner.coroutine import Task, Wait, until
from collector.runner.handle import Claim, Worker
from collector.runner.protocol import INTERRUPT, MESSAGE_LIMIT, STOP, Done, Job, Release, Reply

KILL_GRACE_S = 1.0
"""How long a killed worker may take to die; exit of a process that maps 64 MiB takes 5 ms."""

RELEASE_S = 2.0
PATIENCE_S = 1.0
"""Longest single wait, so that a stop request is noticed."""

REPLY_BURST, REPLY_RATE = 1000, 20.0
"""Replies to one job: so many, and so many a second. A worker reports ten times a second; more is a worker gone mad."""


class Pool:
    """
    Warm workers.

    Args:
        size: How many to keep.
        settings: What each does at its start.
    """

    def __init__(self, size: int, settings: RuntimeSettings) -> None:
        self.size = size
        self._settings = settings
        self._idle: list[Worker] = []
        self._busy: list[Worker] = []
        self._abandoned: list[int] = []
        self._unreleased: list[int] = []
        self._past: deque[int] = deque(maxlen=8)
        self._stop_at_s = float("inf")

    @property
    def idle(self) -> int:
        """Workers that wait for a job."""
        return len(self._idle)

    @property
    def busy(self) -> int:
        """Workers that have a job, or are kept for an incident."""
        return len(self._busy)

    @property
    def missing(self) -> int:
        """Workers to fork until there are as many as there should be."""
        return max(0, self.size - len(self._idle) - len(self._busy))

    @property
    def abandoned(self) -> list[int]:
        """Process ids of workers that were killed and have not died."""
        return list(self._abandoned)

    @property
    def pids(self) -> list[int]:
        """Process ids of all workers, and of the last few lost: word of their death may still be on its way."""
        return [one.pid for one in (*self._idle, *self._busy)] + [*self._abandoned, *self._past]

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stop_at_s != float("inf")

    def stop(self, at_s: float) -> None:
        """The program must end: a copy ends at its next chunk, and no stoppable job runs beyond *at_s*, monotonic."""
        self._stop_at_s = min(self._stop_at_s, at_s)
        self._tell(STOP)

    def fill(self, size: int | None = None) -> None:
        """
        Fork until *size* workers are idle; if it is not given, as many as are `missing`.

        For the start, between incidents, and in one only where no spare lives and the gate is open.

        Raises:
            OSError: ``EMFILE``, ``EAGAIN`` or ``ENOMEM``, where one more cannot be had now.
        """
        self.reap()
        wanted = len(self._idle) + self.missing if size is None else size
        if len(self._idle) < wanted:
            gc.collect()
            gc.freeze()  # the collector of garbage would otherwise touch, and so copy, every shared page
        while len(self._idle) < wanted:
            self._idle.append(self._fork())

    def serve(self, claim: Claim) -> None:
        """Give *claim* a worker if it has none and one is idle; it keeps that until `release_claim`."""
        self.reap()
        if claim.worker is None and self._idle:
            claim.worker = self._idle.pop()
            self._busy.append(claim.worker)

    def release_claim(self, claim: Claim) -> None:
        """Let others have its worker, and give its memories back."""
        claim.let_go()
        if claim.worker is not None:
            self._busy.remove(claim.worker)
            self._idle.append(claim.worker)
            claim.worker = None

    def perform(
        self,
        job: Job,
        *,
        deadline_s: float,
        progress: Callable[[int], None] = lambda _: None,
        stoppable: bool = False,
        claim: Claim | None = None,
        fds: Sequence[int] = (),
    ) -> Task[Result]:
        """
        Run *job* in a worker and return how it ended; never raises for what the worker does.

        Args:
            job: What to do.
            deadline_s: Monotonic; then the worker is killed.
            progress: Told the bytes written so far.
            stoppable: `stop` ends it.
            claim: Use the worker that it was served with, and no other.
            fds: Descriptors that go with the job; they stay the caller's.
        """
        mine = claim or Claim()
        self.serve(mine)  # drops one that died asleep (somebody's SIGKILL, the OOM killer): it must not cost this job
        one = mine.worker
        if one is None:
            return Result(Done(status=StepStatus.FAILED, reason="no worker is left", exit_code=70))
        result = yield from self._perform(one, job, deadline_s, progress, stoppable=stoppable, fds=fds)
        if one not in self._busy:  # lost
            mine.worker = None
        if claim is None:
            self.release_claim(mine)
        return result

    def _perform(
        self,
        one: Worker,
        job: Job,
        deadline_s: float,
        progress: Callable[[int], None],
        *,
        stoppable: bool,
        fds: Sequence[int],
    ) -> Task[Result]:
        try:
            one.give(job, fds)
        except OSError as exc:
            return (yield from self._lose(one, StepStatus.FAILED, f"the worker took no job: {exc.strerror}"))
        start_s, replies = time.monotonic(), 0
        while replies < REPLY_BURST + REPLY_RATE * (time.monotonic() - start_s):
            if not (yield Wait(one.sock.fileno(), min(deadline_s, time.monotonic() + PATIENCE_S))):
                if overdue := self._overdue(deadline_s, stoppable=stoppable):
                    return (yield from self._lose(one, StepStatus.TIMEOUT, overdue))
                continue
            replies += 1
            reply, fd = self._receive(one)
            if isinstance(reply, str):
                return (yield from self._lose(one, StepStatus.FAILED, reply))
            if isinstance(reply, Done):
                if reply.tainted:
                    yield from self._lose(one, StepStatus.OK, "")
                return Result(reply, fd)
            progress(reply.size_bytes)
            if overdue := self._overdue(deadline_s, stoppable=stoppable):  # it reports ten times a second
                return (yield from self._lose(one, StepStatus.TIMEOUT, overdue))
        return (yield from self._lose(one, StepStatus.FAILED, f"the worker sent more than {replies - 1} replies"))

    def _overdue(self, deadline_s: float, *, stoppable: bool) -> str:
        """Say why a job must end now; nothing if it need not."""
        now = time.monotonic()
        if now >= deadline_s:
            return "the deadline passed"
        return "the collector was stopped" if stoppable and now >= self._stop_at_s else ""

    def interrupt(self) -> None:
        """Ask for the workers that do what can wait: they end it soon, with what they have."""
        self._tell(INTERRUPT)

    def _tell(self, word: bytes) -> None:
        for one in self._busy:
            with contextlib.suppress(OSError):
                one.sock.send(word, socket.MSG_DONTWAIT)

    def release(self) -> Task[None]:
        """
        Give back the memory of those abandoned: 8 MiB each otherwise, for as long as they hang.

        Done by a worker, for it takes their ``mmap_lock``, and between incidents. One that the kernel puts
        off (``EAGAIN``) has its turn again the next time; one that costs the worker its life has not.
        """
        again = []
        while self._unreleased and self._idle:
            pid = self._unreleased.pop()
            result = yield from self.perform(Release(pid=pid), deadline_s=time.monotonic() + RELEASE_S)
            if result.done.status is StepStatus.FAILED and not result.died:
                again.append(pid)
        self._unreleased += again

    def close(self) -> None:
        """Kill all workers and reap those that die in time; one that hangs in the kernel holds nobody's exit."""
        workers = (*self._idle, *self._busy)
        for one in workers:
            one.kill()
        until_s = time.monotonic() + KILL_GRACE_S
        for one in workers:
            if until(Wait(one.pidfd, until_s)):
                one.reap()
            else:
                one.close()
        self._idle, self._busy = [], []

    def _receive(self, one: Worker) -> tuple[Reply | str, int | None]:
        """Return a reply, or a sentence on why there is none; and a descriptor if one came with it."""
        try:
            data, fds, flags, _ = socket.recv_fds(one.sock, MESSAGE_LIMIT, 1, socket.MSG_DONTWAIT)
        except OSError as exc:
            return f"the worker cannot be heard: {exc.strerror}", None
        fd = fds[0] if fds else None
        if not data:
            return "the worker died", fd
        if flags & socket.MSG_CTRUNC:
            reason = f"the supervisor has no descriptor left: {os.strerror(errno.EMFILE)}"
            return Done(status=StepStatus.FAILED, reason=reason, exit_code=73), fd
        if flags & socket.MSG_TRUNC:
            return f"the worker sent a reply longer than {MESSAGE_LIMIT} bytes", fd
        try:
            reply: Reply = msgspec.json.decode(data, type=Reply)
        except msgspec.DecodeError:
            return "the worker sent garbage", fd
        return reply, fd

    def _lose(self, one: Worker, status: StepStatus, reason: str) -> Task[Result]:
        """Kill a worker; if it does not die, abandon it."""
        if one in self._busy:
            self._busy.remove(one)
        self._past.append(one.pid)
        one.kill()
        if (yield Wait(one.pidfd, time.monotonic() + KILL_GRACE_S)):
            how = one.reap()
            if status is StepStatus.FAILED and how:
                reason = f"{reason} ({how})"
            return Result(Done(status=status, reason=reason), died=True)
        self._abandoned.append(one.pid)
        self._unreleased.append(one.pid)
        one.close()  # a hundred that hang must not cost the supervisor its descriptors
        return Result(
            Done(
                status=StepStatus.ABANDONED,
                reason=f"{reason}; process {one.pid} hangs in the kernel and cannot be killed",
            )
        )

    def reap(self) -> None:
        """Drop workers that died or were stopped in their sleep, and abandoned ones that could die after all."""
        for one in list(self._idle):
            if not one.is_well():
                self._idle.remove(one)
                self._past.append(one.pid)
                self._abandoned.append(one.pid)  # until the kernel is done with it: at once, as a rule
                one.kill()
                one.close()
        for pid in list(self._abandoned):
            if os.waitpid(pid, os.WNOHANG)[0]:  # ours until it is waited for: the PID is nobody else's
                self._abandoned.remove(pid)
        self._unreleased = [pid for pid in self._unreleased if pid in self._abandoned]

    def _fork(self) -> Worker:
        with contextlib.ExitStack() as undo:
            job_fd = os.memfd_create("collector-job", os.MFD_CLOEXEC)
            undo.callback(os.close, job_fd)
            memory_fd = os.memfd_create("collector-buffers", os.MFD_CLOEXEC)
            undo.callback(os.close, memory_fd)
            os.ftruncate(memory_fd, POOL_BYTES)
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            undo.callback(ours.close)  # the end of its socket is the end of a worker
            with theirs:
                pid = os.fork()
                if pid == 0:
                    worker.main(theirs, job_fd, memory_fd, self._settings)
            try:
                one = Worker(pid, os.pidfd_open(pid), ours, job_fd, memory_fd)
            except OSError:
                ours.close()
                os.waitpid(pid, 0)
                raise
            undo.pop_all()
            return one


@dataclass(frozen=True, slots=True)
class Result:
    """How a job ended, and the descriptor that came with it."""

    done: Done
    fd: int | None = None
    died: bool = False
    """The worker is lost, and gone: another one may succeed."""
