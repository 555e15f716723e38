"""Running a command without forking this process's memory, its output bounded in bytes and in time."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator, Sequence

from collector.host.files import PIECE
from collector.model.artifact import Truncated

ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/"}


class Command:
    """
    A running command: no shell, standard input empty, both outputs in one pipe, its own process group.

    glibc's posix_spawn(3) uses CLONE_VM and CLONE_VFORK: no page table is copied.

    Raises:
        OSError: If it cannot be started.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.exit_status: int | None = None
        """Its exit status; negative for the signal that ended it; ``None`` while it runs."""
        self._output, theirs = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            os.set_blocking(theirs, True)
            self.pid = os.posix_spawn(
                argv[0],
                list(argv),
                ENVIRONMENT,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, theirs, 1),
                    (os.POSIX_SPAWN_DUP2, theirs, 2),
                ],
                setpgroup=0,
                setsigmask=(),
                setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM),
            )
        except BaseException:
            os.close(self._output)
            raise
        finally:
            os.close(theirs)

    def output(self, *, limit: int, until_s: float) -> Iterator[bytes]:
        """
        Yield what it prints, at most *limit* bytes, until *until_s* on the monotonic clock.

        It is ended by SIGKILL, with its whole process group, if it goes beyond either; the stream
        then ends with `Truncated`.
        """
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        left = limit
        while True:
            wait_s = until_s - time.monotonic()
            if wait_s <= 0 or not poll.poll(wait_s * 1000):
                raise Truncated("it was killed: it had not ended in time")
            piece = os.read(self._output, min(PIECE, left + 1))
            if not piece:
                return
            if len(piece) > left:
                yield piece[:left]
                raise Truncated(f"it was killed: it printed more than {limit} bytes")
            left -= len(piece)
            yield piece

    def close(self, until_s: float, *, reap_s: float) -> None:
        """
        Give it until *until_s* to end, then kill it; collect its exit status.

        The unkillable is waited for *reap_s* and no longer: *exit_status* then stays ``None``.
        """
        os.close(self._output)
        pidfd = os.pidfd_open(self.pid)
        try:
            poll = select.poll()
            poll.register(pidfd, select.POLLIN)
            ended = poll.poll(max(0.0, until_s - time.monotonic()) * 1000)
            # The group, not yet reaped, cannot be another's. What it left running goes too.
            os.killpg(self.pid, signal.SIGKILL)
            if ended or poll.poll(reap_s * 1000):
                self.exit_status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        finally:
            os.close(pidfd)
