"""One worker as the supervisor sees it: forking it, talking to it, killing it."""

from __future__ import annotations

import contextlib
import errno
import os
import pickle
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from collector.config.spec import RuntimeSettings
from collector.copying.buffers import POOL_BYTES
from collector.host.passing import receive_fds, send_fds
from collector.model.decode import MalformedError, decode
from collector.model.incident import StepStatus
from collector.runner import worker
from collector.runner.coroutine import Task, Wait
from collector.runner.protocol import JOB, Job
from collector.runner.replies import MESSAGE_LIMIT, Done, Progress

PATIENCE_S = 1.0
"""Longest single wait, so that a stop request is noticed."""

REPLY_BURST, REPLY_RATE = 1000, 20.0
"""Replies allowed per job, and per second beyond that. A worker reports ten times a second; more means it is broken."""


@dataclass(frozen=True, slots=True)
class JobResult:
    """How a job ended, and the descriptor that came with its reply."""

    done: Done
    fd: int | None = None
    died: bool = False
    """The worker was lost and is dead: another one may succeed."""


class WorkerLostError(Exception):
    """The worker must be killed; *status* and *reason* are what its job ends with."""

    def __init__(self, status: StepStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(slots=True, eq=False)
class WorkerProcess:
    """
    A forked worker and the supervisor's end of its socket pair.

    Jobs go through *job_fd*, a memfd that both have held since the fork: a message would have to fit into the socket
    buffer, and sixteen markers with everything a process supervisor may report in them do not. *memory_fd* is the
    memfd of the worker's copy buffers; the supervisor's descriptor keeps them when the worker dies.
    """

    pid: int
    pidfd: int
    sock: socket.socket
    job_fd: int
    memory_fd: int
    memory_held: bool = False
    """A `Claim` still needs the memory, and closes it if the worker is lost."""

    def close(self) -> None:
        """Close the descriptors; a process that is still alive sees its socket end and exits."""
        self.sock.close()
        os.close(self.job_fd)
        if not self.memory_held:
            os.close(self.memory_fd)
        os.close(self.pidfd)

    def perform(
        self,
        job: Job,
        fds: Sequence[int],
        *,
        deadline_s: float,
        progress: Callable[[Progress], None],
        overdue: Callable[[], str],
    ) -> Task[JobResult]:
        """
        Hand over *job* and wait for its end; the arguments are those of `Pool.perform`.

        *overdue* returns why the job must end now, or an empty string; it is asked at *deadline_s* at the latest.

        Raises:
            WorkerLostError: If the job is overdue, or the worker died or sent something it must not.
        """
        self._send_job(job, fds)
        start_s, replies = time.monotonic(), 0
        while replies < REPLY_BURST + REPLY_RATE * (time.monotonic() - start_s):
            if (yield Wait(self.sock.fileno(), min(deadline_s, time.monotonic() + PATIENCE_S))):
                replies += 1
                reply, fd = self._receive()
                if isinstance(reply, Done):
                    return JobResult(reply, fd)
                progress(reply)
            if reason := overdue():
                raise WorkerLostError(StepStatus.TIMEOUT, reason)
        raise WorkerLostError(StepStatus.FAILED, f"the worker sent more than {replies - 1} replies")

    def send(self, word: bytes) -> None:
        """Send ``INTERRUPT`` or ``STOP``; does nothing if the worker cannot be reached."""
        with contextlib.suppress(OSError):
            self.sock.send(word, socket.MSG_DONTWAIT)

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def is_well(self) -> bool:
        """Return False if it has died or was stopped (by a debugger or a SIGSTOP)."""
        return os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is None

    def reap(self) -> str:
        """Collect a dead worker; return how it died."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.close()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def _send_job(self, job: Job, fds: Sequence[int]) -> None:
        os.ftruncate(self.job_fd, 0)
        os.pwrite(self.job_fd, pickle.dumps(job), 0)
        try:
            send_fds(self.sock, JOB, fds, socket.MSG_DONTWAIT)
        except OSError as exc:
            raise WorkerLostError(StepStatus.FAILED, f"the worker could not be given its job: {exc.strerror}") from exc

    def _receive(self) -> tuple[Progress | Done, int | None]:
        """Return a reply, and the descriptor that came with it if it is the last one."""
        try:
            data, fds, flags = receive_fds(self.sock, MESSAGE_LIMIT, 1, socket.MSG_DONTWAIT)
        except OSError as exc:
            raise WorkerLostError(StepStatus.FAILED, f"receiving from the worker failed: {exc.strerror}") from exc
        with contextlib.ExitStack() as unwanted:
            for fd in fds:
                unwanted.callback(os.close, fd)
            reply = _decode(data, flags)
            if isinstance(reply, Done):
                unwanted.pop_all()
        return reply, fds[0] if fds else None


def _decode(data: bytes, flags: int) -> Progress | Done:
    if not data:
        raise WorkerLostError(StepStatus.FAILED, "the worker died")
    if flags & socket.MSG_CTRUNC:
        reason = f"the supervisor has no descriptor left: {os.strerror(errno.EMFILE)}"
        return Done(status=StepStatus.FAILED, reason=reason, exit_code=73)
    if flags & socket.MSG_TRUNC:
        raise WorkerLostError(StepStatus.FAILED, f"the worker sent a reply longer than {MESSAGE_LIMIT} bytes")
    try:
        reply: Progress | Done = decode(data, Progress | Done)
    except MalformedError as exc:
        raise WorkerLostError(StepStatus.FAILED, "the worker sent an invalid reply") from exc
    return reply


def fork_worker(settings: RuntimeSettings) -> WorkerProcess:
    """
    Fork a worker.

    Raises:
        OSError: ``EMFILE``, ``EAGAIN`` or ``ENOMEM``; nothing is left behind.
    """
    with contextlib.ExitStack() as undo:
        job_fd = os.memfd_create("collector-job", os.MFD_CLOEXEC)
        undo.callback(os.close, job_fd)
        memory_fd = os.memfd_create("collector-buffers", os.MFD_CLOEXEC)
        undo.callback(os.close, memory_fd)
        os.ftruncate(memory_fd, POOL_BYTES)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        undo.callback(ours.close)  # the worker exits when its socket ends
        with theirs:
            pid = os.fork()
            if pid == 0:
                worker.main(theirs, job_fd, memory_fd, settings)
        try:
            forked = WorkerProcess(pid, os.pidfd_open(pid), ours, job_fd, memory_fd)
        except OSError:
            ours.close()
            os.waitpid(pid, 0)
            raise
        undo.pop_all()
        return forked
