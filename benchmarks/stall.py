"""
Harm to others: each copier runs on a machine with little memory left and a slow disk.

Ballast on tmpfs leaves about 1 GiB available; a loop disk is throttled to 100 MiB/s. Its image is in memory, so only
the throttle makes it slow, and the other disk is a separate one. With both on one disk of a virtual machine, most of
what looked like the copier's harm was the host's: of 31 syncs on the slow disk that took more than 15 ms beside the
engine, 28 coincided with one on the other. Probes are due at a fixed rate, and latency counts from the due time: a
probe that hangs for a second hides nothing.
"""

from __future__ import annotations

import array
import contextlib
import mmap
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.ballast import Ballast
from benchmarks.copiers import COLLECTOR_COPY, CP, DD_DIRECT, Copier, Engine
from benchmarks.machine import GIB, MIB, PeakWatch, disk, reclaim, segment

RATE = 100 * MIB
AVAILABLE = GIB
SIZE = 2 * GIB
DISK = 3 * GIB
IDLE_S = 20
PERIOD_S = 0.02

SURGE = 256 * MIB
"""Memory that a process allocates at once. With a few MiB at a time kswapd keeps up beside any copier."""

SURGE_PERIOD_S = 5.0

THROTTLE = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device")

ONES = b"\1" * (8 * MIB // 4096)

Probe = Callable[[], object]


class Prober:
    """
    Runs one probe repeatedly and records how long after its due time each run is done.

    It runs in a process forked for each round: threads would measure each other's share of the interpreter. Probes
    start at different times, or they would measure each other's share of the processors.
    """

    def __init__(self, name: str, probe: Probe, period_s: float = PERIOD_S) -> None:
        self.name, self._probe, self._period_s = name, probe, period_s

    def start(self, after_s: float) -> None:
        told, self._stop = os.pipe()
        self._told, tell = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            os.write(tell, array.array("d", self._run(told, after_s)).tobytes())
            os._exit(0)
        for end in (told, tell):
            os.close(end)

    def stop(self) -> dict[str, float]:
        os.write(self._stop, b"stop")
        with open(self._told, "rb") as answer:
            times = sorted(array.array("d", answer.read()))
        os.waitpid(self._pid, 0)
        os.close(self._stop)
        return {
            f"p{share}": round(1000 * times[min(len(times) - 1, len(times) * share // 100)], 2)
            for share in (50, 90, 99)
        } | {"max": round(1000 * times[-1], 2)}

    def _run(self, told: int, after_s: float) -> list[float]:
        seconds = []
        due = time.monotonic() + after_s
        while not select.select([told], [], [], max(0, due - time.monotonic()))[0]:
            self._probe()
            seconds.append(time.monotonic() - due)
            due += self._period_s
        return seconds


def touch() -> None:
    """Touch 8 MiB of fresh memory."""
    with mmap.mmap(-1, 8 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[::4096] = ONES


def surge() -> None:
    """Allocate a segment and free it."""
    fd = os.memfd_create("surge")
    try:
        os.posix_fallocate(fd, 0, SURGE)
    finally:
        os.close(fd)


def spawn() -> None:
    """Fork and execute ``true``."""
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)


@contextlib.contextmanager
def writer(directory: Path) -> Iterator[Probe]:
    """Yield a probe that writes and syncs 4 KiB."""
    fd = os.open(directory / "probe", os.O_CREAT | os.O_WRONLY, 0o600)
    block = os.urandom(4096)

    def write() -> None:
        os.pwrite(fd, block, 0)
        os.fsync(fd)

    try:
        yield write
    finally:
        os.close(fd)


@contextlib.contextmanager
def slow_disk(size: int = DISK) -> Iterator[Path]:
    """Mount a disk throttled to `RATE`, on an image in memory; tmpfs supports direct I/O since Linux 6.6."""
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm", prefix="collector-bench-") as memory,
        disk(Path(memory), size) as slow,
        held(slow, RATE),
    ):
        yield slow


@contextlib.contextmanager
def held(point: Path, rate: int) -> Iterator[None]:
    """Let the block layer throttle all writes to the disk of *point* to *rate* bytes per second."""
    device = os.stat(point).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    THROTTLE.write_text(f"{number} {rate}")
    try:
        yield
    finally:
        THROTTLE.write_text(f"{number} 0")


def one(copier: Copier | None, source: Path, slow: Path, probers: list[Prober]) -> dict[str, object]:
    """Run a copier, or nothing for `IDLE_S`, while the probes run."""
    before, watch = reclaim(), PeakWatch()
    for turn, prober in enumerate(probers):
        prober.start(PERIOD_S * turn / len(probers))
    started = time.monotonic()
    try:
        with watch.watching():
            if copier:
                copier.run(source, slow, watch)
            else:
                time.sleep(IDLE_S)
        seconds = time.monotonic() - started
    finally:  # they hold the ends of pipes that others wait for
        probes = {prober.name: prober.stop() for prober in probers}
    found: dict[str, object] = {"copier": copier.name if copier else "idle", "seconds": round(seconds, 2)}
    found["probes"] = probes
    after = reclaim()
    found |= {counter: after[counter] - before[counter] for counter in before}
    found["free_least_mib"] = watch.free_least // MIB
    found["cache_growth_mib"] = (watch.cache_peak - watch.cache_before) // MIB
    return found


def rounds(other: Path, runs: int) -> dict[str, object]:
    """
    Return *runs* rounds of copies to a slow disk, with *other* on another disk: idle, then each copier.

    ``collector copy`` is a new process each time that knows nothing about the disk; the engine is a lasting worker,
    like the daemon's, and knows it from the second round on.
    """
    found: list[dict[str, object]] = []
    with (
        Engine("engine auto, adaptive", rate="adaptive") as adaptive,
        Engine("engine auto, max", rate="max") as full,
        slow_disk() as slow,
        segment(SIZE) as source,
        writer(slow) as on_slow,
        writer(other) as on_other,
        Ballast() as ballast,
    ):
        copiers: list[Copier] = [COLLECTOR_COPY, adaptive, full, DD_DIRECT, CP]
        probers = [
            Prober("fork + exec", spawn),
            Prober("touch 8 MiB", touch),
            Prober("segment of 256 MiB", surge, SURGE_PERIOD_S),
            Prober("fsync, same disk", on_slow),
            Prober("fsync, other disk", on_other),
        ]
        for _ in range(runs):
            for copier in (None, *copiers):
                ballast.leave(AVAILABLE)
                found.append(one(copier, source, slow, probers))
                (slow / "copy").unlink(missing_ok=True)
                subprocess.run(["sync", "-f", str(slow)], check=True)
    return {"rate": RATE, "size": SIZE, "available": AVAILABLE, "rounds": found}
