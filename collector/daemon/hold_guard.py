"""
A small process that ends every hold in time, whatever becomes of the daemon.

The daemon may hang, since its ledger is on the archive's disk; and if it is killed, a worker that hangs there keeps its
copy of the connection. The guard opens no file: nothing makes it wait.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import time
from dataclasses import dataclass

from collector.daemon.helper_process import fork_helper
from collector.host import coredump_socket, process
from collector.host.held_process import DumpSource, HeldProcess
from collector.host.passing import receive_fds, send_fds

BEAT_S = 1.0
"""How often the daemon tells that it gets on."""

GRACE_S = 1.0
"""How long after its deadline a process may still be there whose pipe somebody else has open, too."""

SILENT_S = 5.0
"""How long the daemon may at least be busy before somebody else empties its queue, however short `hold` is."""

CONNECTION, PIPE, QUEUE, BEAT = b"c", b"p", b"q", b"b"
_MESSAGE = struct.Struct("=cd")


class HoldGuard:
    """The daemon's end: forks the guard, at a time when nobody is held yet."""

    def __init__(self) -> None:
        self.pid, self._sock = fork_helper("collector-hold", _guard)

    def watch(self, held: HeldProcess) -> None:
        """Let go of *held* at its deadline, if it is still there then; of a pipe, by killing it."""
        if held.source is DumpSource.PIPE:
            self._send(PIPE, held.deadline_s + GRACE_S, held.pidfd)
        else:
            self._send(CONNECTION, held.deadline_s, held.pidfd, held.stream_fd)

    def queue(self, listening_fd: int, hold_s: float) -> None:
        """Let go who waits in the queue of a listening socket, once the daemon has not got on for *hold_s*."""
        self._send(QUEUE, hold_s, listening_fd)

    def beat(self) -> None:
        """Tell that the daemon gets on."""
        self._send(BEAT, 0.0)

    @property
    def ended(self) -> bool:
        """Whether somebody has killed it."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def close(self) -> None:
        """Let it end, and wait for nothing: somebody may have stopped it."""
        self._sock.close()
        os.waitpid(self.pid, os.WNOHANG)

    def _send(self, what: bytes, time_s: float, *fds: int) -> None:
        with contextlib.suppress(OSError):  # it was killed or stopped: the daemon's own timers remain
            send_fds(self._sock, _MESSAGE.pack(what, time_s), fds, socket.MSG_DONTWAIT)


@dataclass(slots=True)
class _Watched:
    """A process, by its pidfd; *stream_fd* is its connection, -1 if it has a pipe."""

    deadline_s: float
    pidfd: int
    stream_fd: int = -1

    def end(self) -> None:
        if self.stream_fd >= 0:
            coredump_socket.end(self.stream_fd)
            return
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def close(self) -> None:
        os.close(self.pidfd)
        if self.stream_fd >= 0:
            os.close(self.stream_fd)


def _guard(sock: socket.socket) -> None:
    process.be_urgent()
    process.lock_memory(future=False)
    _Loop(sock).run()


class _Loop:
    """The guard itself."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._watched: dict[int, _Watched] = {}
        self._queue: socket.socket | None = None
        self._queue_s = self._beat_s = time.monotonic()
        self._daemon_lives = True

    def run(self) -> None:
        while self._daemon_lives or self._watched:
            for fd, _ in self._poll.poll(self._pause_s() * 1000):
                if fd == self._sock.fileno():
                    self._receive()
                elif (gone := self._watched.get(fd)) is not None:
                    self._forget(gone)
            now_s = time.monotonic()
            for watched in [one for one in self._watched.values() if one.deadline_s <= now_s]:
                watched.end()
                self._forget(watched)
            if self._queue is not None and now_s > self._beat_s + self._queue_s:
                self._empty(self._queue)

    def _pause_s(self) -> float:
        """Return until when nothing is due: often nobody is held, and then a beat wakes it up anyway."""
        due_s = min((one.deadline_s for one in self._watched.values()), default=time.monotonic() + BEAT_S)
        return min(BEAT_S, max(0.0, due_s - time.monotonic()))

    def _receive(self) -> None:
        try:
            data, fds, _ = receive_fds(self._sock, _MESSAGE.size, 2, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._daemon_ended()
            return
        self._beat_s = time.monotonic()
        what, time_s = _MESSAGE.unpack(data)
        if what == QUEUE:
            self._stop_queue()
            self._queue, self._queue_s = socket.socket(fileno=fds[0]), max(time_s, SILENT_S)
        elif fds:
            self._watched[fds[0]] = _Watched(time_s, *fds)
            self._poll.register(fds[0], select.POLLIN)

    def _daemon_ended(self) -> None:
        """Let go of who is left; the queue is for the next daemon."""
        self._daemon_lives = False
        self._poll.unregister(self._sock)
        self._stop_queue()
        now_s = time.monotonic()
        for watched in self._watched.values():
            watched.deadline_s = min(watched.deadline_s, now_s if watched.stream_fd >= 0 else now_s + GRACE_S)

    def _forget(self, watched: _Watched) -> None:
        del self._watched[watched.pidfd]
        self._poll.unregister(watched.pidfd)
        watched.close()

    def _stop_queue(self) -> None:
        if self._queue is not None:
            self._queue.close()
            self._queue = None

    def _empty(self, queue: socket.socket) -> None:
        """Let go who waits for a daemon that does not answer; the kernel's log says how many were."""
        count = 0
        with contextlib.suppress(OSError):  # BlockingIOError: that was the last one
            while True:
                queue.accept()[0].close()
                count += 1
        if count:
            _log(f"collector: the cores of {count} processes are lost: the daemon does not answer")


def _log(line: str) -> None:
    """Write to the kernel's log, at level "warning" of the facility "user"."""
    with contextlib.suppress(OSError):
        log = os.open("/dev/kmsg", os.O_WRONLY | os.O_CLOEXEC)
        os.write(log, f"<12>{line}\n".encode())
        os.close(log)
