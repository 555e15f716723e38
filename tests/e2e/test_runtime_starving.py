"""The daemon with almost no memory left: in its own cgroup, and on the whole machine."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from configuration import MEMORY, config_of
from harness import Daemon, Victim, meminfo, run_now, segment, wait_for
from machine import core_pattern
from memory_group import memory_group

MIB = 1 << 20
LEFT = 200 * MIB
pytestmark = pytest.mark.root

GREEDY = "{id: greedy, collector: dmesg, budget: 1000MiB}"


def test_gate_keeps_to_the_limit_of_its_own_cgroup(daemon_factory: Callable[..., Daemon]) -> None:
    """A step that does not fit into the service's cgroup is skipped, though the machine has memory; the others run."""
    daemon = daemon_factory(config_of(MEMORY, GREEDY, triggers=(), pressure={"on_pressure": "skip"}), start=False)
    with memory_group() as group:
        group.limit(1024 * MIB)
        daemon.start("sh", "-c", f'echo $$ > {group.path}/cgroup.procs; exec "$@"', "sh")
        assert run_now(daemon).exit_code == 3
        daemon.stop()
    memory, greedy = daemon.incidents()[-1]["steps"]
    assert memory["status"] == "ok"
    assert greedy["status"] == "skipped"
    assert "collector's cgroup" in greedy["reason"]
    daemon.stop()


@contextmanager
def ballast(directory: Path) -> Iterator[Path]:
    """Take all memory but `LEFT`, as preallocated segments do; release it if another process needs it."""
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
        Path("/proc/sys/vm/drop_caches").write_text("1")  # so that taking the memory causes no stalls
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, meminfo()["MemAvailable"] - LEFT)
        yield file
    finally:
        done.set()
        thread.join()
        subprocess.run(["umount", str(directory)], check=True)


class Watcher:
    """Samples the lowest available memory, and counts allocation stalls."""

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
        """Stop sampling; return the number of stalls."""
        self._done.set()
        self._thread.join()
        return stalls() - self._stalls


def stalls() -> int:
    lines = (line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return sum(int(number) for name, number in lines if name.startswith("allocstall"))


def some_avg10() -> float:
    """Return for what part of the last ten seconds some process stalled for memory, in percent."""
    some = Path("/proc/pressure/memory").read_text().splitlines()[0]
    return float(some.split("avg10=")[1].split()[0])


@pytest.mark.slow
def test_runtime_collects_all_of_a_crash_with_little_memory_left(
    daemon_factory: Callable[..., Daemon], crasher: Path
) -> None:
    """
    With 200 MiB left, the incident is complete, with its segment, takes at most 16 MiB and causes no stalls.

    Everything else that the machine does in that second counts, too: the lowest of three crashes is the best estimate.
    """
    daemon = daemon_factory()
    with (
        segment("starving", 64 * MIB, {0: os.urandom(64 * MIB)}) as path,
        ballast(daemon.directory / "ballast") as held,
    ):
        wait_for(lambda: some_avg10() < 1.0, "end of the stalls that the ballast made", timeout_s=60)
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
