"""
The harm to others: a machine with little memory left and a slow disk, while each copier runs.

Ballast on tmpfs leaves about 1 GiB available; a loop disk is held to 100 MiB/s. Probes start at an
intended rate, and one that starts late counts its wait: a probe that hangs for a second hides nothing.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.copiers import CP, DD_DIRECT, Copier, Engine
from benchmarks.machine import GIB, MIB, Watch, fields, mounted, reclaim, run, segment

RATE = 100 * MIB
AVAILABLE = GIB
SIZE = 3 * GIB // 2
IDLE_S = 12
PERIOD_S = 0.02
THROTTLE = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device")

Probe = Callable[[], object]


class Prober:
    """Runs one probe every 20 ms and notes how late each is done, counted from when it was due."""

    def __init__(self, name: str, probe: Probe) -> None:
        self.name, self._probe = name, probe
        self.seconds: list[float] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self.seconds.clear()
        self._stop.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> dict[str, float]:
        self._stop.set()
        self._thread.join()
        times = sorted(self.seconds)
        return {
            f"p{share}": round(1000 * times[min(len(times) - 1, len(times) * share // 100)], 2)
            for share in (50, 90, 99)
        } | {"max": round(1000 * times[-1], 2)}

    def _run(self) -> None:
        due = time.monotonic()
        while not self._stop.is_set():
            self._probe()
            now = time.monotonic()
            self.seconds.append(now - due)
            due += PERIOD_S
            if due > now:
                time.sleep(due - now)


def touch() -> None:
    """Touch 8 MiB of fresh memory."""
    with mmap.mmap(-1, 8 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        for at in range(0, 8 * MIB, 4096):
            memory[at] = 1


def spawn() -> None:
    """Fork and execute ``true``."""
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {}), 0)


@contextlib.contextmanager
def writer(directory: Path) -> Iterator[Probe]:
    """Write 4 KiB and sync them."""
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
def slow_disk(scratch: Path) -> Iterator[Path]:
    """A fresh ext4 on a loop device whose writes the block layer holds to 100 MiB/s."""
    image = scratch / "slow.img"
    with image.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 4 * GIB)
    run("mkfs.ext4", "-qF", "-E", "lazy_itable_init=0,lazy_journal_init=0", image)
    loop = run("losetup", "--find", "--show", "--direct-io=on", image)
    device = os.stat(loop).st_rdev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with mounted(loop, scratch / "slow", "ext4", "rw") as point:
            THROTTLE.write_text(f"{number} {RATE}")
            try:
                yield point
            finally:
                THROTTLE.write_text(f"{number} 0")
    finally:
        run("losetup", "-d", loop)
        image.unlink()


@contextlib.contextmanager
def ballast(leave: int) -> Iterator[None]:
    """Fill memory with tmpfs until *leave* bytes are available, as on the machines that this is for."""
    Path("/proc/sys/vm/drop_caches").write_text("1")
    size = fields("/proc/meminfo")["MemAvailable"] - leave
    path = Path(f"/dev/shm/collector-bench-ballast-{os.getpid()}")
    fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        path.unlink()
        if size > 0:
            os.posix_fallocate(fd, 0, size)
        yield
    finally:
        os.close(fd)


def one(copier: Copier | None, source: Path, slow: Path, probers: list[Prober]) -> dict[str, object]:
    """Run a copier, or nothing for a while, under the probes."""
    before, watch = reclaim(), Watch()
    for prober in probers:
        prober.start()
    started = time.monotonic()
    with watch.watching():
        if copier:
            copier.run(source, slow, watch)
        else:
            time.sleep(IDLE_S)
    seconds = time.monotonic() - started
    found: dict[str, object] = {"copier": copier.name if copier else "idle", "seconds": round(seconds, 2)}
    found["probes"] = {prober.name: prober.stop() for prober in probers}
    after = reclaim()
    found |= {counter: after[counter] - before[counter] for counter in before}
    found["free_least_mib"] = watch.free_least // MIB
    found["cache_growth_mib"] = (watch.cache_peak - watch.cache_before) // MIB
    return found


def rounds(scratch: Path, *, runs: int) -> dict[str, object]:
    """Return all rounds: idle, then each copier, *runs* times over."""
    found: list[dict[str, object]] = []
    with (
        Engine("engine auto, adaptive", rate="adaptive") as adaptive,
        Engine("engine auto, max", rate="max") as full,
        slow_disk(scratch) as slow,
        segment(SIZE) as source,
        writer(slow) as same,
        writer(scratch) as other,
    ):
        copiers: list[Copier] = [adaptive, full, DD_DIRECT, CP]
        probers = [
            Prober("fork + exec", spawn),
            Prober("touch 8 MiB", touch),
            Prober("fsync, same disk", same),
            Prober("fsync, other disk", other),
        ]
        for _ in range(runs):
            for copier in (None, *copiers):
                with ballast(AVAILABLE):
                    time.sleep(2)
                    found.append(one(copier, source, slow, probers))
                (slow / "copy").unlink(missing_ok=True)
                subprocess.run(["sync", "-f", str(slow)], check=True)
    return {"rate": RATE, "size": SIZE, "available": AVAILABLE, "rounds": found}
