"""A command of the operator's, run without a shell: its output is read while it runs, and nothing outlives it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Sequence

from collector.host.files import PIECE, OpenFd
from collector.host.orphans import adopt_orphans
from collector.host.process_stat import Stat, parse_stat
from collector.model.artifact import Truncated
from collector.model.text import escape

MAX_NAMES = 8
IN_BACKGROUND = "it ended, but processes that it left behind held its output until they were killed"
LATE = "it was killed: it had not ended in time"
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/"}
STOP_CHECK_S = 0.2
"""Interval at which a command that prints nothing is checked for a reason to end it."""


class Command:
    """
    A running command: no shell, empty standard input, one pipe for both outputs, its own process group.

    Whatever it starts ends with it, also what leaves the group: its orphans become children of this process.
    glibc's posix_spawn(3) uses CLONE_VM and CLONE_VFORK, so no page tables are copied.

    Raises:
        OSError: If it cannot be started.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        self.exit_status: int | None = None
        """Negative for a signal; ``None`` while it runs."""
        self.killed = ""
        """What was killed, and why: the command itself, or processes that it had left behind."""
        self._strangers = _children()
        adopt_orphans(enabled=True)
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
            adopt_orphans(enabled=False)
            os.close(self._output)
            raise
        finally:
            os.close(theirs)

    def output(self, *, limit: int, until_s: float) -> Iterator[bytes]:
        """Yield its output; raise `Truncated` after *limit* bytes, or at *until_s* on the monotonic clock."""
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        left = limit
        while True:
            wait_s = until_s - time.monotonic()
            if wait_s <= 0 or not poll.poll(wait_s * 1000):
                raise self._cut(IN_BACKGROUND if self._has_ended() else LATE)
            piece = os.read(self._output, min(PIECE, left + 1))
            if not piece:
                return
            if len(piece) > left:
                yield piece[:left]
                raise self._cut(f"it was killed: it printed more than {limit} bytes")
            left -= len(piece)
            yield piece

    def tail(self, *, most: int, until_s: float, stopped: Callable[[], str]) -> bytes:
        """
        Read all of its output and return the last *most* bytes.

        If it goes on at *until_s* on the monotonic clock, or once *stopped* returns why, that is `killed`.
        """
        poll = select.poll()
        poll.register(self._output, select.POLLIN)
        kept = b""
        while not (why := stopped() or ("" if time.monotonic() < until_s else LATE)):
            if not poll.poll(min(STOP_CHECK_S, max(0.0, until_s - time.monotonic())) * 1000):
                continue
            if not (piece := os.read(self._output, PIECE)):
                return kept
            kept = (kept + piece)[-most:]
        self._cut(IN_BACKGROUND if self._has_ended() else why)
        return kept

    def start_ticks(self) -> int | None:
        """Return when it started, in clock ticks since boot."""
        stat = _stat_of(self.pid)
        return None if stat is None else stat.start_ticks

    def _cut(self, why: str) -> Truncated:
        self.killed = why
        return Truncated(why)

    def _has_ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def close(self, until_s: float, *, reap_s: float) -> None:
        """
        Give it until *until_s* to end, kill it with all that it started, and collect its exit status.

        If it does not die within *reap_s*, *exit_status* stays ``None``; what it started has as long again.
        """
        os.close(self._output)
        try:
            with OpenFd(os.pidfd_open(self.pid)) as pidfd:
                ended = _ends(pidfd, until_s)
                # Its leader is not yet reaped, so the group's number is not in use again.
                os.killpg(self.pid, signal.SIGKILL)
                if ended or _ends(pidfd, time.monotonic() + reap_s):
                    self.exit_status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            killed, alive = self._kill_orphans(time.monotonic() + reap_s)
        finally:
            adopt_orphans(enabled=False)
        if ended and killed:
            self.killed = f"it ended and left processes behind, which were killed: {_list(killed)}"
        if alive:
            self.killed = f"{self.killed or 'it ended'}; could not be killed: {_list(alive)}"

    def _kill_orphans(self, until_s: float) -> tuple[list[str], list[str]]:
        """Kill and reap what the command has left; return which were killed, and which did not die."""
        killed: list[str] = []
        while True:  # the children of each come to this process when it dies
            orphans = {pid: name for pid, name in _children().items() if pid not in {*self._strangers, self.pid}}
            if not orphans or time.monotonic() > until_s:
                return killed, list(orphans.values())
            for pid, name in orphans.items():
                with contextlib.suppress(PermissionError):  # set-id, and this is not root
                    os.kill(pid, signal.SIGKILL)  # it is not reaped: its number is not in use again
                with OpenFd(os.pidfd_open(pid)) as pidfd:
                    if _ends(pidfd, until_s) and os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL:
                        killed.append(name)


def kill_group(pid: int, start_ticks: int, *, wait_s: float) -> bool:
    """
    Kill a process that started at *start_ticks*, if it still lives, and the process group that it leads.

    It may be of an earlier run, and so no child of this process. Return whether it is gone.
    """
    try:
        with OpenFd(os.pidfd_open(pid)) as pidfd:
            stat = _stat_of(pid)
            if stat is None or stat.start_ticks != start_ticks:
                return True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            return _ends(pidfd, time.monotonic() + wait_s)
    except ProcessLookupError:
        return True


def _ends(pidfd: int, until_s: float) -> bool:
    """Wait for the end of a process."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0.0, until_s - time.monotonic()) * 1000))


def _children() -> dict[int, str]:
    """Return this process's children: how each is called, by PID."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return {}  # as it should be: /proc need not be read
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        stat = _stat_of(int(pid))
        if stat is not None and stat.ppid == os.getpid():
            found[stat.pid] = f"{escape(stat.comm)} (PID {pid})"
    return found


def _stat_of(pid: int) -> Stat | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return parse_stat(file.read())
    except (OSError, ValueError):
        return None


def _list(names: list[str]) -> str:
    return ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
