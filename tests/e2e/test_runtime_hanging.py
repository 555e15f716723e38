"""Sources that hang: a file system whose server does not answer, a process that holds its ``mmap_lock``."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from configuration import MEMORY, config_of
from hanging_fuse import mounted, wedged_process
from harness import Daemon, run_now, status_of, steps_of, wait_for

MIB = 1 << 20
pytestmark = pytest.mark.root

CONFIG = config_of(
    MEMORY,
    "{id: processes, collector: process_table, with: {read_timeout: 200ms}}",
    "{id: dead, collector: files, timeout: 500ms, with: {paths: [$directory/fuse/slow]}}",
    "{id: after, collector: files, with: {paths: [$directory/collector.yaml]}}",
    triggers=(),
)


@pytest.fixture
def daemon(daemon_factory: Callable[..., Daemon]) -> Daemon:
    return daemon_factory(CONFIG)


@pytest.fixture
def fuse(daemon: Daemon) -> Iterator[Path]:
    mountpoint = daemon.directory / "fuse"
    mountpoint.mkdir()
    with mounted(mountpoint):
        yield mountpoint


def collect(daemon: Daemon, wedged: int) -> dict[str, dict[str, object]]:
    """Run one incident; return its steps by id."""
    assert run_now(daemon).incident is not None
    steps = steps_of(daemon.incidents()[-1])
    assert steps["memory"]["status"] == steps["after"]["status"] == "ok"
    assert steps["dead"]["status"] == "abandoned", steps["dead"]
    assert "cannot be killed" in steps["dead"]["reason"]
    unread = (daemon.archive / daemon.incidents()[-1]["id"] / "processes/unread.jsonl").read_text()
    assert f"/proc/{wedged}/cmdline" in unread
    return steps


def resident(pid: int) -> int:
    """
    Return the private resident KiB of a process whose first thread may be dead: another thread still has its memory.

    Shared pages stay, the kernel takes private ones only: a copy buffer of 1 MiB may be among them.
    """
    threads = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    assert any("State:\tD" in status for status in threads)
    words = (line.split() for status in threads for line in status.splitlines())
    return sum(int(word[1]) for word in words if word[0] == "RssAnon:")


def descriptors(process: psutil.Process) -> int:
    """Count descriptors once the last client has gone."""
    time.sleep(0.3)
    return process.num_fds()


def test_runtime_loses_one_step_to_a_file_that_hangs(daemon: Daemon, fuse: Path) -> None:
    """The step ends on time, its worker is abandoned, the incident is archived, and the next one works."""
    with wedged_process(fuse) as wedged:
        for _ in range(2):
            collect(daemon, wedged)
        wait_for(lambda: status_of(daemon).workers_idle == 2, "two warm workers")
        abandoned = status_of(daemon).workers_abandoned
        assert len(abandoned) == 2
        assert not any(map(resident, abandoned)), "their memory is given back"


@pytest.mark.slow
def test_runtime_reaps_abandoned_workers(daemon: Daemon) -> None:
    """They die once the file system is gone; none stays a zombie or is still counted."""
    mountpoint = daemon.directory / "fuse"
    mountpoint.mkdir()
    with mounted(mountpoint), wedged_process(mountpoint) as wedged:
        collect(daemon, wedged)
        assert status_of(daemon).workers_abandoned
    wait_for(lambda: not status_of(daemon).workers_abandoned, "end of the abandoned")
    assert len(psutil.Process(daemon.pid).children()) == 2


def test_runtime_stops_in_time_beside_abandoned_workers(daemon: Daemon, fuse: Path) -> None:
    """SIGTERM does not wait for workers that hang."""
    with wedged_process(fuse) as wedged:
        collect(daemon, wedged)
        assert daemon.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_runtime_leaks_nothing_over_twenty_hanging_incidents(daemon: Daemon, fuse: Path) -> None:
    """Only unkillable workers remain; the supervisor's descriptors and memory are unchanged."""
    supervisor = psutil.Process(daemon.pid)
    with wedged_process(fuse) as wedged:
        collect(daemon, wedged)
        wait_for(lambda: status_of(daemon).workers_idle == 2, "two warm workers")
        fds, rss = descriptors(supervisor), supervisor.memory_info().rss
        for _ in range(20):
            collect(daemon, wedged)
        wait_for(lambda: status_of(daemon).workers_idle == 2, "two warm workers")
        after = descriptors(supervisor)
        print(f"RSS {rss} -> {supervisor.memory_info().rss}, descriptors {fds} -> {after}")
        assert after == fds
        assert abs(supervisor.memory_info().rss - rss) <= MIB
        abandoned = status_of(daemon).workers_abandoned
        assert len(abandoned) == 21
        assert len(supervisor.children()) == len(abandoned) + 2
        wait_for(lambda: not any(map(resident, abandoned)), "end of their memory")
