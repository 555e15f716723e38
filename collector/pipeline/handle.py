"""The supervisor's side of one worker."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
from dataclasses import dataclass

from collector.pipeline.protocol import JOB, Job


@dataclass(slots=True)
class Worker:
    """
    A forked worker and the supervisor's end of its socket pair.

    Jobs go through *job_fd*, a file in memory that both hold from the fork on: a message would have to fit into the
    socket's buffer, and sixteen markers with all that a supervisor of processes may say in them do not.
    """

    pid: int
    pidfd: int
    sock: socket.socket
    job_fd: int

    def close(self) -> None:
        """Release the descriptors; the process, if it lives, sees its socket end and exits."""
        self.sock.close()
        os.close(self.job_fd)
        os.close(self.pidfd)

    def give(self, job: Job) -> None:
        """
        Hand a job over.

        Raises:
            OSError: If it cannot be heard any more.
        """
        os.ftruncate(self.job_fd, 0)
        os.pwrite(self.job_fd, pickle.dumps(job), 0)
        self.sock.send(JOB, socket.MSG_DONTWAIT)

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
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
