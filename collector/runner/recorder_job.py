"""What a worker does for the flight recorder: it visits processes, and writes the seconds of an incident."""

from __future__ import annotations

from contextlib import closing

from collector.archive.store import Store
from collector.copying.rate.throttle import always_go
from collector.host.files import Host
from collector.host.own_procfs import Procfs, detached
from collector.host.process_stat import STAT_LIMIT
from collector.host.procfs import CLOCK_TICKS_PER_S, PAGE_BYTES, boot_ticks
from collector.host.shared_recording import shared
from collector.model.errors import StepError
from collector.model.recording import STEP, Recording
from collector.model.top_processes import TopProcess, Visits
from collector.runner.artifacts import Writer
from collector.runner.protocol import WriteSeconds
from collector.runner.recorded_files import during
from collector.runner.replies import Done

VISITED = 100
"""Processes of one job: 20 us each while the caches are warm, 32 after seconds of sleep."""


def write_seconds(job: WriteSeconds) -> Done:
    """Write them beside what was read when the incident began."""
    with Store(job.archive) as store, store.incident(job.incident) as incident_fd:
        writer = Writer(
            incident_fd=incident_fd,
            step=STEP,
            copy=job.copy,
            reserve_bytes=job.reserve_bytes,
            ask=always_go,
            skipped=store.recorded(job.incident),
            replaces=True,
        )
        for artifact in during(_recording(), job.since_s):
            writer.write(artifact)
        writer.sync()
    written = writer.written()
    return Done(written=(written,), artifacts=written.artifacts, size_bytes=written.size_bytes)


def visit_processes() -> Done:
    """
    Visit the next `VISITED` processes, through a procfs of its own: the ordinary one would keep what was looked up.

    Raises:
        StepError: If there is no such procfs.
    """
    recording = _recording()
    if (procfs := detached(Host())) is None:
        raise StepError("no procfs of its own", hint="run as root with CAP_SYS_ADMIN, on Linux 5.8 or later")
    now_ticks = boot_ticks()
    with closing(procfs):
        pids, following = procfs.pids_from(recording.state.offset, most=VISITED)
        visited = [_visit(procfs, pid, recording.visits, now_ticks) for pid in pids]
    recording.state.add(
        (process for process in visited if process is not None),
        visited=len(pids),
        following=following or 0,
        now_ns=now_ticks * 10**9 // CLOCK_TICKS_PER_S,
    )
    return Done()


def _recording() -> Recording:
    if (recording := shared()) is None:
        raise StepError("there is no flight recorder in this process")
    return recording


def _visit(procfs: Procfs, pid: int, visits: Visits, now_ticks: int) -> TopProcess | None:
    """Return what its ``stat`` says, proc_pid_stat(5); ``None`` if it has ended."""
    try:
        raw = procfs.read(f"{pid}/stat", STAT_LIMIT)
        end = raw.rindex(b") ")
        fields = raw[end + 2 :].split(b" ", 22)
        used_ticks, start_ticks = int(fields[11]) + int(fields[12]), int(fields[19])
        rss_bytes = int(fields[21]) * PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None
    cpu = visits.cpu(pid, start_ticks, used_ticks, now_ticks=now_ticks)
    return TopProcess(pid, raw[raw.index(b"(") + 1 : end], start_ticks, rss_bytes, cpu)
