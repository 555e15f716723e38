"""The daemon on a machine that has next to no memory left: by its own cgroup's limit, and for real."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from harness import Daemon, Victim, core_pattern, meminfo, run_now, segment, shipped, wait_for

MIB = 1 << 20
LEFT = 200 * MIB
pytestmark = pytest.mark.root

CONFIG = """
version: 1
archive: {{path: {archive}, reserve: 0%}}
pressure: {{floor: 64MiB, on_pressure: skip}}
runtime: {{directory: {runtime}}}
pipelines:
  crash:
    steps:
      - {{id: memory, collector: proc_files}}
      - {{id: greedy, collector: dmesg, budget: 1000MiB}}
"""


@pytest.fixture
def limited_group() -> Iterator[Path]:
    """Make a cgroup with a memory limit of 1 GiB, in whichever hierarchy has the controller; yield its ``procs``."""
    unified = Path("/sys/fs/cgroup/cgroup.controllers")
    if unified.exists() and "memory" in unified.read_text().split():
        base, limit = Path("/sys/fs/cgroup"), "memory.max"
        (base / "cgroup.subtree_control").write_text("+memory")
    else:
        base, limit = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
    group = base / f"collector-test-{os.getpid()}"
    group.mkdir()
    try:
        (group / limit).write_text(str(1024 * MIB))
        yield group / "cgroup.procs"
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), "empty cgroup")
        group.rmdir()


def test_gate_keeps_to_the_limit_of_its_own_cgroup(daemon_factory: Callable[..., Daemon], limited_group: Path) -> None:
    """The machine has memory, the service has not: a step that its cgroup has no room for is skipped, the rest runs."""
    daemon = daemon_factory(CONFIG, start=False)
    daemon.start("sh", "-c", f'echo $$ > {limited_group}; exec "$@"', "sh")
    assert run_now(daemon).exit_code == 3
    memory, greedy = daemon.incidents()[-1]["steps"]
    assert memory["status"] == "ok"
    assert greedy["status"] == "skipped"
    assert "collector's cgroup" in greedy["reason"]
    daemon.stop()


@contextmanager
def ballast(directory: Path) -> Iterator[Path]:
    """Take all memory but `LEFT`, as pre-allocated segments do; given back at once if somebody else needs it."""
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100%", "collector-test", str(directory)], check=True)
    file, done = directory / "ballast", threading.Event()

    def guard() -> None:
        while not done.wait(0.01):
            if meminfo()["MemAvailable"] < LEFT // 2:
                os.truncate(file, 0)

    thread = threading.Thread(target=guard)
    try:
        file.touch()
        thread.start()
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("1")  # so that taking the memory stalls nobody
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, meminfo()["MemAvailable"] - LEFT)
        yield file
    finally:
        done.set()
        thread.join()
        subprocess.run(["umount", str(directory)], check=True)


class Watcher:
    """The least available memory, and stalls of whoever wanted some, while it looks."""

    def __init__(self) -> None:
        self.start = self.least = meminfo()["MemAvailable"]
        self._stalls = stalls()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()

    def _look(self) -> None:
        while not self._done.wait(0.005):
            self.least = min(self.least, meminfo()["MemAvailable"])

    def stop(self) -> int:
        """Stop looking; return the stalls."""
        self._done.set()
        self._thread.join()
        return stalls() - self._stalls


def stalls() -> int:
    lines = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return sum(int(number) for name, number in lines if name.startswith("allocstall"))


def full_avg10() -> float:
    """Return how much of the last ten seconds everybody stalled for memory, in percent."""
    full = Path("/proc/pressure/memory").read_text().splitlines()[1]
    return float(full.split("avg10=")[1].split()[0])


@pytest.mark.slow
def test_runtime_collects_all_of_a_crash_on_a_machine_that_has_little(
    daemon_factory: Callable[..., Daemon], crasher: Path
) -> None:
    """
    200 MiB are left and a process crashes: complete, with its segment, and nobody stalls for it.

    It takes 16 MiB at most. Whatever else the machine does in that second counts, too: the least of three crashes is
    the nearest to the truth.
    """
    daemon = daemon_factory(start=False)
    daemon.config.write_text(shipped(daemon))
    daemon.start()
    with (
        segment("starving", 64 * MIB, {0: os.urandom(64 * MIB)}) as path,
        ballast(daemon.directory / "ballast") as held,
    ):
        wait_for(lambda: full_avg10() < 1.0, "end of the stalls that the ballast made", timeout_s=60)
        for number in range(1, 4):
            watcher = Watcher()
            with core_pattern(f"{daemon.cores}/core.%e.%p"):
                Victim(crasher, path).die()
            manifest = daemon.wait_for_incidents(number, timeout_s=60)[-1]
            stalled = watcher.stop()
            assert held.stat().st_size > 0, "somebody else took the memory: nothing was measured"
            taken = watcher.start - watcher.least
            print(f"MemAvailable {watcher.start / MIB:.1f} MiB, {taken / MIB:.1f} less at most, allocstall {stalled}")
            if taken <= 16 * MIB and stalled == 0:
                break
    assert taken <= 16 * MIB
    assert stalled == 0
    assert manifest["state"] == "complete"
    copied = [artifact for artifact in manifest["steps"][-1]["artifacts"] if artifact.get("source") == path]
    assert [artifact["size_bytes"] for artifact in copied] == [64 * MIB]
    assert not [event for event in daemon.events() if event["event"] == "step.waiting"]
