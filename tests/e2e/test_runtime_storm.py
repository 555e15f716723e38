"""A storm of crashes: every marker is recorded, few are collected, and the daemon keeps answering."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import psutil
import pytest
from configuration import MEMORY, config_of
from harness import Daemon, status_of, wait_for
from machine import sysctl

from collector.model.case import Fate

MIB = 1 << 20
EXECUTABLES = 40
pytestmark = [pytest.mark.root, pytest.mark.slow]

WINDOW_S = 4
CONFIG = config_of(
    MEMORY,
    "{id: core, collector: core, with: {keep: none}}",
    archive={"keep": {"count": None}},
    storm={
        "coalesce": "1s",
        "per_executable": {"count": 2, "window": f"{WINDOW_S}s"},
        "per_uid": {"count": 1000},
        "total": {"count": 10, "window": f"{WINDOW_S}s"},
    },
)


class Asker:
    """Asks for the status ten times a second and keeps the response times."""

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
    """Create *count* core files of many executables, evenly over *seconds*."""
    start_s = time.monotonic()
    for number in range(count):
        (daemon.cores / f"core.engine{number % EXECUTABLES}.{number + 1}").write_bytes(b"\x7fELF" + b"\0" * 508)
        time.sleep(max(0.0, start_s + number * seconds / count - time.monotonic()))


def fates(daemon: Daemon) -> Counter[str]:
    """Return the markers by fate, with a row of their own or without."""
    return Counter(status_of(daemon).fates)


def settled(daemon: Daemon, count: int) -> bool:
    found = fates(daemon)
    return found.total() >= count and not any(found[fate] for fate in Fate if fate.open)


def check(daemon: Daemon, count: int, asker: Asker, start_s: float, rss: int) -> None:
    """Every marker is accounted for by its final fate; the budgets bound the number of incidents."""
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
    """Shorten the event queue of inotify instances opened from now on."""
    with sysctl("fs/inotify/max_queued_events", 64):
        yield


@pytest.mark.usefixtures("short_queue")
def test_runtime_finds_cores_after_the_event_queue_overflowed(daemon_factory: Callable[..., Daemon]) -> None:
    """The kernel dropped events: the directories are read again; the overflow is counted and logged."""
    daemon = daemon_factory(CONFIG)
    rss, start_s = psutil.Process(daemon.pid).memory_info().rss, time.monotonic()
    os.kill(daemon.pid, signal.SIGSTOP)  # like a machine too busy to run it
    dump(daemon, 2_000, seconds=0.0)
    os.kill(daemon.pid, signal.SIGCONT)
    check(daemon, 2_000, Asker(daemon), start_s, rss)
    assert status_of(daemon).lost["cores"] > 0
    assert any(event["event"] == "markers.lost" for event in daemon.events())
