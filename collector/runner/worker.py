"""A worker: forked at start-up, everything imported, buffers touched, then asleep until a job arrives."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import resource
import signal
import socket
import traceback
from typing import NoReturn

import msgspec

from collector.config.spec import RuntimeSettings
from collector.copying import buffers
from collector.host import capabilities, process
from collector.host.guarded_read import wedged_threads
from collector.host.passing import receive_fds
from collector.model.errors import CollectorError
from collector.model.incident import StepStatus
from collector.pressure.sampler import Sampler
from collector.runner import jobs
from collector.runner.protocol import INTERRUPT, JOB, Job, OpenFiles, ReadStep
from collector.runner.replies import Done
from collector.runner.reporter import Reporter

"""The OOM killer should take a worker rather than the supervisor or the machine's own work."""

SOCKET_FD, JOB_FD, MEMORY_FD = 3, 4, 5
MAX_FDS = 16
"""Most descriptors that come with a job: the memories of one incident. Each beyond the first cost a worker its life."""
OPEN_FILES = 256
WORKERS_ONLY = (capabilities.SYS_ADMIN, capabilities.CHECKPOINT_RESTORE)
"""What the supervisor sets aside: a procfs of its own, kernel stacks, and the files that a process has mapped."""

DATA_BYTES = 96 << 20
"""
Private writable memory beyond what a warm worker has (RLIMIT_DATA). Not RLIMIT_AS, because a copy maps windows of
64 MiB that cost only page tables. Measured: no shipped collector needs more than 16 MiB.
"""

FILE_BYTES = 16 << 40
"""Longest file (RLIMIT_FSIZE): ext4's limit. A sparse copy may be longer than the disk."""

REASON_LIMIT = 4096


def main(sock: socket.socket, job_fd: int, memory_fd: int, settings: RuntimeSettings) -> NoReturn:
    """Do the jobs in *job_fd* until *sock* ends, then exit: it never returns to the forked copy of its caller."""
    status = 1
    try:
        sock = _settle(sock, job_fd, memory_fd)
        _serve(sock, settings)
        status = 0
    except BaseException:  # noqa: BLE001 - the outermost frame of this process: say why and exit
        _print_traceback()
    finally:
        os._exit(status)


def _settle(sock: socket.socket, job_fd: int, memory_fd: int) -> socket.socket:
    process.die_with_parent()
    process.never_dump()
    process.set_name("collector-work")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal signals the whole group; the supervisor decides
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    null = os.open(os.devnull, os.O_RDWR)
    for inherited in (0, 1):  # a reader of the output of `collector run` must not wait for a worker that hangs
        os.dup2(null, inherited)
    # Out of the way of the numbers assigned next.
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, MEMORY_FD + 1) for fd in (sock.fileno(), job_fd, memory_fd)]
    sock.detach()
    for old, new in zip(moved, (SOCKET_FD, JOB_FD, MEMORY_FD), strict=True):
        os.dup2(old, new, inheritable=False)
    os.closerange(MEMORY_FD + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    capabilities.use(*WORKERS_ONLY)
    process.set_oom_score_adj(process.OOM_FIRST)
    process.be_urgent()  # while asleep as well: a nice process would wake up late
    buffers.warm(MEMORY_FD)
    process.lock_memory(future=False)
    _limit(resource.RLIMIT_NOFILE, OPEN_FILES)
    _limit(resource.RLIMIT_FSIZE, FILE_BYTES)
    _limit(resource.RLIMIT_DATA, process.data_bytes() + DATA_BYTES)
    return socket.socket(fileno=SOCKET_FD)


def _limit(kind: int, value: int) -> None:
    """Lower a limit to *value*; never raise it."""
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
            with contextlib.nullcontext() if isinstance(job, ReadStep | OpenFiles) else background:
                done, fd = _perform(job, fds, sampler, report)
        finally:
            for received in fds:
                os.close(received)
        if wedged_threads() or _open_files() - (fd is not None) > opened:
            done = msgspec.structs.replace(done, tainted=True)
        report.done(done, fd)
        if fd is not None:
            os.close(fd)


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:  # EMFILE: a job has used all of them
        return OPEN_FILES


def _next_job(sock: socket.socket) -> tuple[Job, list[int]] | None:
    """Wait for a job and its descriptors; ``None`` when the supervisor has gone. Late interrupts are ignored."""
    while True:
        try:
            data, fds, _ = receive_fds(sock, len(INTERRUPT), MAX_FDS)
        except ConnectionResetError:  # it was killed before it had read a reply
            return None
        if not data:
            return None
        if data == JOB:
            size = os.fstat(JOB_FD).st_size
            return pickle.loads(os.pread(JOB_FD, size, 0)), fds  # noqa: S301 - from the process that forked us


def _perform(job: Job, fds: list[int], sampler: Sampler, report: Reporter) -> tuple[Done, int | None]:
    """Do *job* and turn any error into its end; after a bug this process is tainted: its state is unknown."""
    try:
        return jobs.perform(job, fds, sampler, report)
    except CollectorError as exc:
        return Done(status=StepStatus.FAILED, reason=_short(exc), hint=exc.hint, exit_code=exc.exit_code), None
    except OSError as exc:
        return Done(status=StepStatus.FAILED, reason=_short(exc), exit_code=73), None
    except Exception as exc:  # noqa: BLE001 - a bug in a collector must cost one step only; it is logged in full
        _print_traceback()
        hint = "this is a bug: please report it"
        return Done(status=StepStatus.FAILED, reason=_short(exc), hint=hint, exit_code=70, tainted=True), None


def _print_traceback() -> None:
    """Write it to descriptor 2, the journal: the parent's `sys.stderr` may be closed here."""
    with contextlib.suppress(OSError):
        os.write(2, traceback.format_exc().encode(errors="backslashreplace"))


def _short(exc: BaseException) -> str:
    text = str(exc) or type(exc).__name__
    if not isinstance(exc, CollectorError | OSError):
        text = f"{type(exc).__name__}: {text}"
    return text.encode(errors="backslashreplace").decode()[:REASON_LIMIT]
