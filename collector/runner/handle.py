"""The supervisor's side of one worker, and what an incident keeps of it."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from collector.model.signals import signal_name
from collector.runner.protocol import JOB, Job


@dataclass(slots=True)
class Worker:
    """
    A forked worker and the supervisor's end of its socket pair.

    Jobs go through *job_fd*, a file in memory that both hold from the fork on: a message would have to fit into the
    socket's buffer, and sixteen markers with all that a supervisor of processes may say in them do not. *memory_fd*
    is the worker's copy buffers, which outlive it here.
    """

    pid: int
    pidfd: int
    sock: socket.socket
    job_fd: int
    memory_fd: int
    memory_held: bool = False
    """A `Claim` still wants its memory, and closes it if the worker is lost."""

    def close(self) -> None:
        """Release the descriptors; the process, if it lives, sees its socket end and exits."""
        self.sock.close()
        os.close(self.job_fd)
        if not self.memory_held:
            os.close(self.memory_fd)
        os.close(self.pidfd)

    def give(self, job: Job, fds: Sequence[int] = ()) -> None:
        """
        Hand a job over, and *fds* with it.

        Raises:
            OSError: If it cannot be heard any more.
        """
        os.ftruncate(self.job_fd, 0)
        os.pwrite(self.job_fd, pickle.dumps(job), 0)
        socket.send_fds(self.sock, [JOB], list(fds), socket.MSG_DONTWAIT)

    def kill(self) -> None:
        """Send SIGKILL."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def is_well(self) -> bool:
        """Return whether it neither died nor was stopped (a debugger, somebody's SIGSTOP)."""
        return os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT) is None

    def reap(self) -> str:
        """Collect a dead worker; return how it died."""
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        self.close()
        return f"signal {signal_name(-code)}" if code < 0 else f"exit status {code}"


class Claim:
    """
    A worker kept for the light evidence of one incident, and the memory that it was read into: that of workers, too,
    which this has cost their lives.
    """

    def __init__(self) -> None:
        self.worker: Worker | None = None
        self.memories: list[int] = []
        """Descriptors of the spools, oldest first."""

    def hold_memory(self) -> None:
        """Keep the memory of the worker, which something is about to be read into; it costs no further descriptor."""
        if self.worker is not None:
            self.worker.memory_held = True
            self.memories.append(self.worker.memory_fd)

    def let_go(self) -> None:
        """Give up the memories; that of a worker that lives stays its own."""
        for fd in self.memories:
            if self.worker is not None and fd == self.worker.memory_fd:
                self.worker.memory_held = False
            else:
                os.close(fd)
        self.memories = []
