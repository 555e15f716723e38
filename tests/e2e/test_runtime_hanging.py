"""Sources that never answer: a file system whose server is silent, a process that holds its own lock."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hanging_fuse import mounted, wedged_process
from harness import Daemon, run_now, status_of, wait_for

MIB = 1 << 20
pytestmark = pytest.mark.root

CONFIG = """
version: 1
archive: {{path: {archive}, reserve: 0%}}
pressure: {{floor: 64MiB}}
runtime: {{directory: {runtime}}}
pipelines:
  crash:
    steps:
      - {{id: memory, collector: proc_files}}
      - {{id: processes, collector: process_table, with: {{read_timeout: 200ms}}}}
      - {{id: dead, collector: files, timeout: 500ms, with: {{paths: [{directory}/fuse/slow]}}}}
      - {{id: after, collector: files, with: {{paths: [{directory}/collector.yaml]}}}}
"""


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
    steps = {step["id"]: step for step in daemon.incidents()[-1]["steps"]}
    assert steps["memory"]["status"] == steps["after"]["status"] == "ok"
    assert steps["dead"]["status"] == "abandoned", steps["dead"]
    assert "cannot be killed" in steps["dead"]["reason"]
    unread = (daemon.archive / daemon.incidents()[-1]["id"] / "processes/unread.jsonl").read_text()
    assert f"/proc/{wedged}/cmdline" in unread
    return steps


def resident(pid: int) -> int:
    """
    Return the private resident KiB of a process whose first thread may be dead: another one still has its memory.

    Shared pages stay, the kernel takes private ones only: a copy buffer of 1 MiB may be among them.
    """
    threads = [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    assert any("State:\tD" in status for status in threads)
    words = (line.split() for status in threads for line in status.splitlines())
    return sum(int(word[1]) for word in words if word[0] == "RssAnon:")


def descriptors(process: psutil.Process) -> int:
    """Count descriptors once the last client is served."""
    time.sleep(0.3)
    return process.num_fds()


def test_runtime_loses_one_step_to_a_file_that_never_answers(daemon: Daemon, fuse: Path) -> None:
    """The step ends on time, its worker is abandoned, the incident is archived, the next one works."""
    with wedged_process(fuse) as wedged:
        for _ in range(2):
            collect(daemon, wedged)
        wait_for(lambda: status_of(daemon).workers_idle == 2, "two warm workers")
        abandoned = status_of(daemon).workers_abandoned
        assert len(abandoned) == 2
        assert not any(map(resident, abandoned)), "their memory is given back"


@pytest.mark.slow
def test_runtime_forgets_the_abandoned_once_they_are_dead(daemon: Daemon) -> None:
    """When the file system is gone they die at last; none stays a zombie, none is counted any more."""
    mountpoint = daemon.directory / "fuse"
    mountpoint.mkdir()
    with mounted(mountpoint), wedged_process(mountpoint) as wedged:
        collect(daemon, wedged)
        assert status_of(daemon).workers_abandoned
    wait_for(lambda: not status_of(daemon).workers_abandoned, "end of the abandoned")
    assert len(psutil.Process(daemon.pid).children()) == 2


def test_runtime_stops_in_time_beside_abandoned_workers(daemon: Daemon, fuse: Path) -> None:
    """SIGTERM waits for nobody that hangs."""
    with wedged_process(fuse) as wedged:
        collect(daemon, wedged)
        assert daemon.stop(signal.SIGTERM) == 0


@pytest.mark.slow
def test_runtime_leaks_nothing_over_twenty_hanging_incidents(daemon: Daemon, fuse: Path) -> None:
    """Only the truly unkillable stay; the supervisor has the same descriptors and the same memory afterwards."""
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
