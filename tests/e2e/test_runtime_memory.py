"""The memory that the daemon takes is small, and does not grow with the machine."""

from __future__ import annotations

import importlib.util
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from configuration import CORES, MEMORY, config_of
from crowd import crowd
from harness import Daemon, run_now, status_of, wait_for

MIB = 1 << 20
pytestmark = pytest.mark.root

CONFIG = config_of(
    MEMORY,
    "{id: processes, collector: process_table, timeout: 30s}",
    "{id: bulk, collector: files, with: {paths: [$directory/bulk], max_bytes: 2GiB, max_total: 4GiB}}",
    triggers=(),
    copy={"rate": "max"},
)
IDLE = config_of(
    MEMORY,
    "{id: core, collector: core}",
    triggers=(
        CORES,
        "{id: exits, type: process_exits, rules: [{comm: [no-such-program]}], pipeline: crash}",
        "{id: kernel, type: kernel_log, events: [oops], pipeline: crash}",
        "{id: memory, type: memory_pressure, pipeline: crash}",
    ),
)
"""Nothing that usually happens on a test machine triggers it."""

RESIDENT_BYTES = 37 * MIB
"""Of the supervisor; measured 34.3 MiB with Python 3.11, without the recorder."""

PRIVATE_BYTES = 9 * MIB
"""Of each worker, 4 MiB of it copy buffers; measured 8.3 MiB with Python 3.11, 7.6 with 3.12, 7.8 with 3.13."""

JOB_BYTES = 1 << 19
"""What a job at the start, such as the recovery, makes a worker touch of what it shared: 0.35 MiB each."""

ONLY_COMMANDS_NEED = (
    "rich", "_ssl", "_hashlib", "tarfile", "click._termui_impl", "click.shell_completion", "click.testing",
    "collector.archive.export", "collector.archive.dropping", "collector.daemon.requests", "collector.pipeline.preview",
)  # fmt: skip
CLI_OF_THE_DAEMON = {f"collector.cli.{name}" for name in ("main", "streams", "verbs", "daemon", "options")}
PS = "pid,ppid,uid,stat,comm,nlwp,ni,psr,rss,sz,vsz,time,min_flt,maj_flt,etimes,wchan,cgroup,args"


def private(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def test_runtime_takes_little_memory_while_idle(daemon_factory: Callable[..., Daemon]) -> None:
    """It runs for weeks beside the machine's real work."""
    daemon = daemon_factory(IDLE)
    status = wait_for(lambda: (status := status_of(daemon)).workers_idle == 2 and status, "two workers")
    assert set(status.triggers.values()) == {"watching"}
    resident = psutil.Process(daemon.pid).memory_info().rss
    workers = [private(worker.pid) for worker in psutil.Process(daemon.pid).children()]
    print(f"supervisor {resident / MIB:.1f} MiB resident, workers {[f'{one / MIB:.1f}' for one in workers]} private")
    assert resident <= RESIDENT_BYTES
    assert min(workers) <= PRIVATE_BYTES
    assert max(workers) <= PRIVATE_BYTES + JOB_BYTES


def test_runtime_imports_nothing_that_only_commands_need(daemon_factory: Callable[..., Daemon]) -> None:
    """Otherwise it would stay in the daemon and in each worker, also what a library imports only if it is installed."""
    assert importlib.util.find_spec("rich"), "the development environment has it: without it this test shows nothing"
    daemon = daemon_factory(IDLE, start=False)
    daemon.start("env", "PYTHONPROFILEIMPORTTIME=1")
    assert run_now(daemon).exit_code == 0
    lines = daemon.log.read_text().splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert "collector.runner.worker" in imported
    commands = {name for name in imported if name.startswith("collector.cli.")} - CLI_OF_THE_DAEMON
    assert commands == set()
    # A failed import is listed, too, without anything below it.
    assert {name for name in imported if name.startswith(ONLY_COMMANDS_NEED)} <= {"rich"}


def peaks(daemon: Daemon) -> tuple[int, int]:
    """Run an incident; return the peak resident bytes of the supervisor and of the largest worker meanwhile."""
    wait_for(lambda: status_of(daemon).workers_idle == 2, "two workers")
    pids = [daemon.pid, *(worker.pid for worker in psutil.Process(daemon.pid).children())]
    for pid in pids:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets the peak; proc_pid_clear_refs(5)
    assert run_now(daemon).exit_code == 0, daemon.incidents()[-1]
    supervisor, *workers = map(peak, pids)
    return supervisor, max(workers)


def peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def assert_same(what: str, small: tuple[int, int], large: tuple[int, int]) -> None:
    for name, before, after in zip(("supervisor", "worker"), small, large, strict=True):
        print(f"{what}: {name} {before / MIB:.1f} MiB -> {after / MIB:.1f} MiB")
        assert abs(after - before) <= 4 * MIB


def cpu(processes: list[psutil.Process]) -> float:
    return sum(process.cpu_times().user + process.cpu_times().system for process in processes)


@pytest.mark.slow
def test_runtime_needs_no_more_memory_for_ten_thousand_processes(
    daemon_factory: Callable[..., Daemon], tmp_path: Path
) -> None:
    """Peak RSS stays within 4 MiB of that with a hundred; prints the CPU time beside that of `ps`."""
    daemon = daemon_factory(CONFIG)
    (daemon.directory / "bulk").write_bytes(b"x")
    peaks(daemon)  # the first touches what has never been used
    with crowd(tmp_path, 100):
        small = peaks(daemon)
    with crowd(tmp_path, 10_000):
        large = peaks(daemon)
        before = cpu(workers := psutil.Process(daemon.pid).children())
        assert run_now(daemon, "processes").exit_code == 0
        ours = cpu(workers) - before
        listed = (daemon.archive / daemon.incidents()[-1]["id"] / "processes/processes.tsv").read_bytes().count(b"\n")
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(["ps", "axo", PS], check=True, stdout=subprocess.DEVNULL)
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
    theirs = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
    print(f"{listed} processes: incident {ours:.2f} s of CPU, `ps axo` of the same fields {theirs:.2f} s")
    assert listed > 10_000
    assert_same("100 -> 10,000 processes", small, large)


@pytest.mark.slow
def test_runtime_needs_no_more_memory_for_a_large_file(daemon_factory: Callable[..., Daemon]) -> None:
    """A file of 1 GiB has the same peak as one of 1 MiB."""
    daemon = daemon_factory(CONFIG)
    bulk = daemon.directory / "bulk"
    bulk.write_bytes(os.urandom(MIB))
    peaks(daemon)
    small = peaks(daemon)
    with bulk.open("wb") as file:
        piece = os.urandom(MIB)
        for _ in range(1024):
            file.write(piece)
    large = peaks(daemon)
    sizes = [one["size_bytes"] for one in daemon.incidents()[-1]["steps"][-1]["artifacts"]]
    assert max(sizes) == 1024 * MIB
    assert_same("1 MiB -> 1 GiB file", small, large)
