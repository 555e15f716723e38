"""A storm of crashes: every marker is on record, few are collected, and the daemon is there throughout."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from harness import Daemon, status_of, wait_for

from collector.model.case import Fate

MIB = 1 << 20
MAX_QUEUED_EVENTS = Path("/proc/sys/fs/inotify/max_queued_events")
EXECUTABLES = 40
pytestmark = [pytest.mark.root, pytest.mark.slow]

WINDOW_S = 4
CONFIG = """
version: 1
archive: {{path: {archive}, reserve: 0%, keep: {{count: null}}}}
pressure: {{floor: 64MiB}}
runtime: {{directory: {runtime}}}
storm:
  coalesce: 1s
  per_executable: {{count: 2, window: 4s}}
  per_uid: {{count: 1000}}
  total: {{count: 10, window: 4s}}
triggers:
  - {{id: cores, type: core_files, paths: ["{cores}"], match: ["core*"], pipeline: crash}}
pipelines:
  crash:
    steps:
      - {{id: memory, collector: proc_files}}
      - {{id: core, collector: core, with: {{keep: none}}}}
"""


class Asker:
    """Asks for the status ten times a second, and keeps how long the answers took."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self.seconds: list[float] = []
        self.failed: list[Exception] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._ask)
        self._thread.start()

    def _ask(self) -> None:
        while not self._done.wait(0.1):
            start_s = time.monotonic()
            try:
                status_of(self._daemon)
            except Exception as exc:
                self.failed.append(exc)
            self.seconds.append(time.monotonic() - start_s)

    def stop(self) -> None:
        self._done.set()
        self._thread.join()


def dump(daemon: Daemon, count: int, *, seconds: float) -> None:
    """Let *count* core files of many executables appear, evenly over so many seconds."""
    start_s = time.monotonic()
    for number in range(count):
        (daemon.cores / f"core.engine{number % EXECUTABLES}.{number + 1}").write_bytes(b"\x7fELF" + b"\0" * 508)
        time.sleep(max(0.0, start_s + number * seconds / count - time.monotonic()))


def fates(daemon: Daemon) -> Counter[str]:
    """Count the ledger's rows by fate."""
    ledger = sqlite3.connect(f"file:{daemon.archive}/ledger.sqlite?mode=ro", uri=True)
    try:
        return Counter(dict(ledger.execute("SELECT fate, count(*) FROM markers GROUP BY fate")))
    finally:
        ledger.close()


def settled(daemon: Daemon, count: int) -> bool:
    found = fates(daemon)
    return found.total() >= count and not any(found[fate] for fate in Fate if fate.open)


def check(daemon: Daemon, count: int, asker: Asker, start_s: float, rss: int) -> None:
    """Every marker has its row and its final fate; incidents are as many as the budgets allow."""
    wait_for(lambda: settled(daemon, count), "final fate of every marker", timeout_s=60)
    took_s = time.monotonic() - start_s
    asker.stop()
    found = fates(daemon)
    incidents = daemon.incidents()
    growth = psutil.Process(daemon.pid).memory_info().rss - rss
    times = [round(seconds * 1000) for seconds in sorted(asker.seconds)]
    print(
        f"{count} cores, settled after {took_s:.1f} s: {dict(found)}, {len(incidents)} incidents,",
        f"RSS +{growth / MIB:.1f} MiB, status {len(times)} times, {times[len(times) // 2]} ms, most {times[-1]} ms",
    )
    assert not asker.failed
    assert found.total() == count
    assert found["collected"] == len(incidents)
    assert len(incidents) <= 10 * (took_s // WINDOW_S + 1)
    assert growth <= 8 * MIB
    assert not list(daemon.archive.glob("*.partial"))


def test_runtime_records_every_marker_of_a_storm(daemon_factory: Callable[..., Daemon]) -> None:
    """10,000 core files in 10 s."""
    daemon = daemon_factory(CONFIG)
    rss, start_s = psutil.Process(daemon.pid).memory_info().rss, time.monotonic()
    asker = Asker(daemon)
    dump(daemon, 10_000, seconds=10.0)
    check(daemon, 10_000, asker, start_s, rss)


@pytest.fixture
def short_queue() -> Iterator[None]:
    """Let the kernel keep few events for whoever opens inotify from now on."""
    before = MAX_QUEUED_EVENTS.read_text()
    try:
        MAX_QUEUED_EVENTS.write_text("64")
        yield
    finally:
        MAX_QUEUED_EVENTS.write_text(before)


@pytest.mark.usefixtures("short_queue")
def test_runtime_finds_what_an_overflow_of_the_event_queue_hid(daemon_factory: Callable[..., Daemon]) -> None:
    """The kernel drops events: the directories are read again, the overflow is counted and told."""
    daemon = daemon_factory(CONFIG)
    rss, start_s = psutil.Process(daemon.pid).memory_info().rss, time.monotonic()
    os.kill(daemon.pid, signal.SIGSTOP)  # as good as a machine that does not get round to it
    dump(daemon, 2_000, seconds=0.0)
    os.kill(daemon.pid, signal.SIGCONT)
    check(daemon, 2_000, Asker(daemon), start_s, rss)
    assert status_of(daemon).lost["cores"] > 0
    assert any(event["event"] == "markers.lost" for event in daemon.events())
