"""A worker: forked at start-up, everything imported, buffers touched, then asleep until there is a job."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import resource
import signal
import socket
import time
import traceback
from typing import NoReturn

import msgspec

from collector.config.spec import RuntimeSettings
from collector.copying import buffers
from collector.host import process
from collector.model.errors import CollectorError
from collector.model.incident import StepStatus
from collector.pressure.sampler import Sampler
from collector.runner import jobs
from collector.runner.coroutine import Wait, until
from collector.runner.protocol import INTERRUPT, JOB, STOP, Done, Job, Progress, ReadStep

OOM_SCORE_ADJ = 500
"""If somebody must die for memory, it is the copier, not the supervisor and not the machine's own work."""

PROGRESS_S = 0.1
SOCKET_FD, JOB_FD, MEMORY_FD = 3, 4, 5
MOST_FDS = 16
"""Descriptors that come with a job: the memories of one incident, a worker lost for each beyond the first."""
OPEN_FILES = 256
DATA_BYTES = 96 << 20
"""
Private writable memory beyond what a warm worker has (RLIMIT_DATA). Not RLIMIT_AS: a copy maps windows of
64 MiB that cost page tables only. Measured: no shipped collector needs 16 MiB beyond it.
"""

FILE_BYTES = 16 << 40
"""Longest file (RLIMIT_FSIZE): ext4's limit. A sparse copy may be longer than the disk has room for."""

REASON_LIMIT = 4096


class Reporter:
    """The worker's end of the socket pair."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._told_s = float("-inf")
        self._stopped = False

    def progress(self, size_bytes: int) -> None:
        """Tell the supervisor the bytes written so far, ten times a second at most."""
        now = time.monotonic()
        if now - self._told_s >= PROGRESS_S:
            self._told_s = now
            self._sock.send(msgspec.json.encode(Progress(size_bytes)))

    def interrupted(self) -> bool:
        """Return whether the supervisor wants this worker for something else."""
        return until(Wait(self._sock.fileno(), 0.0))

    def stopped(self) -> bool:
        """Return whether the program must end. An interrupt is for what can wait, and this job is not."""
        while not self._stopped and until(Wait(self._sock.fileno(), 0.0)):
            self._stopped = self._sock.recv(len(INTERRUPT)) in (STOP, b"")
        return self._stopped

    def done(self, done: Done, fd: int | None = None) -> None:
        """End the job; *fd* goes to the supervisor."""
        socket.send_fds(self._sock, [msgspec.json.encode(done)], [] if fd is None else [fd])


def main(sock: socket.socket, job_fd: int, memory_fd: int, settings: RuntimeSettings) -> NoReturn:
    """Serve the jobs in *job_fd* until *sock* ends; never returns into the forked copy of its caller."""
    status = 1
    try:
        sock = _settle(sock, job_fd, memory_fd)
        _serve(sock, settings)
        status = 0
    except BaseException:  # noqa: BLE001 - the last frame of this process: say why and go
        _print_traceback()
    finally:
        os._exit(status)


def _settle(sock: socket.socket, job_fd: int, memory_fd: int) -> socket.socket:
    process.die_with_parent()
    process.never_dump()
    process.set_name("collector-work")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the terminal signals the whole group; the supervisor decides
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    null = os.open(os.devnull, os.O_RDWR)
    for inherited in (0, 1):  # whoever reads the output of `collector run` must not wait for a worker that hangs
        os.dup2(null, inherited)
    # Out of the way of the numbers that are given next.
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, MEMORY_FD + 1) for fd in (sock.fileno(), job_fd, memory_fd)]
    sock.detach()
    for old, new in zip(moved, (SOCKET_FD, JOB_FD, MEMORY_FD), strict=True):
        os.dup2(old, new, inheritable=False)
    os.closerange(MEMORY_FD + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    process.set_oom_score_adj(OOM_SCORE_ADJ)
    process.be_urgent()  # asleep, too: a nice one would wake up late
    buffers.warm(MEMORY_FD)
    process.lock_memory(future=False)
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    _limit(resource.RLIMIT_FSIZE, FILE_BYTES)
    _limit(resource.RLIMIT_DATA, process.data_bytes() + DATA_BYTES)
    return socket.socket(fileno=SOCKET_FD)


def _limit(kind: int, value: int) -> None:
    """Lower a limit; one that is lower already stays."""
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))


def _serve(sock: socket.socket, settings: RuntimeSettings) -> None:
    report = Reporter(sock)
    sampler = Sampler()
    opened = _open_files()
    while (given := _next_job(sock)) is not None:
        job, fds = given
        background = process.in_background(settings.nice, settings.io_class)
        try:
            with contextlib.nullcontext() if isinstance(job, ReadStep) else background:
                done, fd = _perform(job, fds, sampler, report)
        finally:
            for received in fds:
                os.close(received)
        if _open_files() - (fd is not None) > opened:
            done = msgspec.structs.replace(done, tainted=True)
        report.done(done, fd)
        if fd is not None:
            os.close(fd)


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:  # EMFILE: a job has taken all of them
        return OPEN_FILES


def _next_job(sock: socket.socket) -> tuple[Job, list[int]] | None:
    """Wait for a job and what comes with it; ``None`` at the end of the supervisor. Other words came too late."""
    while True:
        data, fds, _, _ = socket.recv_fds(sock, len(INTERRUPT), MOST_FDS)
        if not data:
            return None
        if data == JOB:
            size = os.fstat(JOB_FD).st_size
            return pickle.loads(os.pread(JOB_FD, size, 0)), fds  # noqa: S301 - of the process that forked us


def _perform(job: Job, fds: list[int], sampler: Sampler, report: Reporter) -> jobs.Answer:
    """Do *job*; whatever goes wrong becomes its end. Only after a bug, nobody knows in what state this process is."""
    try:
        return jobs.perform(job, fds, sampler, report)
    except CollectorError as exc:
        return Done(status=StepStatus.FAILED, reason=_short(exc), hint=exc.hint, exit_code=exc.exit_code), None
    except OSError as exc:
        return Done(status=StepStatus.FAILED, reason=_short(exc), exit_code=73), None
    except Exception as exc:  # noqa: BLE001 - a bug in one collector costs one step; it is told in full
        _print_traceback()
        hint = "this is a bug: please report it"
        return Done(status=StepStatus.FAILED, reason=_short(exc), hint=hint, exit_code=70, tainted=True), None


def _print_traceback() -> None:
    """Write it to descriptor 2, the journal: what `sys.stderr` stands for in the parent may be closed here."""
    with contextlib.suppress(OSError):
        os.write(2, traceback.format_exc().encode(errors="backslashreplace"))


def _short(exc: BaseException) -> str:
    text = str(exc) or type(exc).__name__
    if not isinstance(exc, CollectorError | OSError):
        text = f"{type(exc).__name__}: {text}"
    return text.encode(errors="backslashreplace").decode()[:REASON_LIMIT]
