"""Memory pressure: a real stall in a memory cgroup, and a kernel without PSI."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from memory_group import memory_group

from collector.host.clock import Moment, moment
from collector.host.files import Host
from collector.model.marker import Marker, MarkerKind
from collector.model.units import Bytes, Seconds
from collector.triggers import memory_pressure
from collector.triggers.base import TriggerContext
from collector.triggers.memory_pressure import MemoryPressure

# Writes and reads a file larger than its cgroup, again and again: every page it needs was just reclaimed.
THRASH = """
import sys
sys.stdin.read()
data = b"x" * (1 << 20)
with open(sys.argv[1], "wb+") as file:
    for _ in range(48): file.write(data)
    while True:
        file.seek(0)
        while file.read(1 << 20): pass
"""


def context(notes: dict[str, str], root: str = "/") -> TriggerContext:
    return TriggerContext(
        id="starving",
        host=Host(root=root),
        ignore=(),
        runtime_directory="/",
        remember=notes.__setitem__,
        recall=notes.get,
    )


@pytest.fixture
def thrashing(scratch: Path) -> Iterator[None]:
    """A process that stalls for memory, in a cgroup of its own."""
    with memory_group() as group:
        group.limit(24 << 20)
        child = subprocess.Popen([sys.executable, "-c", THRASH, str(scratch / "big")], stdin=subprocess.PIPE)
        try:
            group.take(child.pid)
            assert child.stdin is not None
            child.stdin.close()
            yield
        finally:
            child.kill()
            child.wait()


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (lambda: moment(), 0),
        (lambda: Moment(moment().boot_id, moment().boot_s - 3601.0), 1),
        (lambda: Moment("another boot", moment().boot_s), 1),
        (lambda: time.time(), 1),
    ],
    ids=["just now", "an hour ago", "another boot", "an earlier release"],
)
def test_memory_pressure_cooldown_is_running_time(tmp_path: Path, last: Callable[[], object], expected: int) -> None:
    """The date has no part in it, and another boot is another memory."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 100 kB\n")
    notes = {"starving.last": msgspec.json.encode(last()).decode()}
    watch = MemoryPressure(available=Bytes(1 << 20), cooldown=Seconds(3600.0)).open(context(notes, str(tmp_path)))
    assert sum(1 for _ in range(3) for _ in watch.poll()) == expected


@pytest.mark.root
@pytest.mark.needs("/proc/pressure/memory")
@pytest.mark.usefixtures("thrashing")
def test_memory_pressure_tells_a_real_stall_once() -> None:
    """The kernel's own threshold wakes the loop, and the cool-down outlives a restart."""
    notes: dict[str, str] = {}
    trigger = MemoryPressure(stall=Seconds(0.001), window=Seconds(2.0))
    told: list[Marker] = []
    for _ in range(2):
        watch = trigger.open(context(notes))
        assert watch.degraded is None
        ready = select.select([watch], [], [], 30.0)[0]
        assert ready, "the kernel saw no stall"
        told += watch.read()
        watch.close()
    (marker,) = told
    assert marker.kind is MarkerKind.PRESSURE


@pytest.mark.parametrize(("available_kb", "expected"), [(100, 1), (1_000_000, 0)])
def test_memory_pressure_polls_where_there_is_no_psi(tmp_path: Path, available_kb: int, expected: int) -> None:
    """Many kernels ship with PSI off: MemAvailable is looked at instead, and the status says so."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable:   {available_kb} kB\n")
    watch = MemoryPressure(available=Bytes(1 << 20)).open(context({}, str(tmp_path)))
    assert watch.fileno() == -1
    assert watch.poll_s is not None
    assert watch.degraded is not None
    assert sum(1 for _ in range(3) for _ in watch.poll()) == expected


def test_memory_pressure_refuses_a_window_that_the_kernel_refuses() -> None:
    """Found at the start, not when the machine starves."""
    with pytest.raises(ValueError, match="500ms"):
        MemoryPressure(window=Seconds(60.0)).open(context({}))


def test_memory_pressure_tries_psi_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been refused for want of a descriptor or of memory only."""
    (tmp_path / "proc/pressure").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemAvailable: 1000000 kB\n")
    monkeypatch.setattr(memory_pressure, "RETRY_S", 0.0)
    watch = MemoryPressure(available=Bytes(1 << 20)).open(context({}, str(tmp_path)))
    assert list(watch.poll()) == []
    assert watch.degraded is not None
    os.mkfifo(tmp_path / "proc/pressure/memory")  # a file that can be written, and polled
    assert list(watch.poll()) == []
    assert (watch.degraded, watch.poll_s) == (None, None)
    assert watch.fileno() >= 0
    watch.close()
