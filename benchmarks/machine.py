"""The machine's counters, segments and disks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30
SCRATCH = Path("/var/tmp")


def run(*command: object) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout.strip()


def fields(path: str) -> dict[str, int]:
    """Read ``name number`` lines; kB become bytes."""
    found = {}
    for line in Path(path).read_text().splitlines():
        name, number, *unit = line.replace(":", " ").split()
        found[name] = int(number) * (1024 if unit else 1)
    return found


def page_cache() -> int:
    """Return the bytes of page cache without tmpfs."""
    memory = fields("/proc/meminfo")
    return memory["Cached"] - memory["Shmem"]


def reclaim() -> dict[str, int]:
    """Return how often processes were in direct reclaim."""
    counters = fields("/proc/vmstat")
    return {
        "allocstall": sum(value for name, value in counters.items() if name.startswith("allocstall")),
        "pgscan_direct": counters["pgscan_direct"],
    }


@dataclass
class PeakWatch:
    """Peaks sampled every 10 ms while something runs."""

    cache_before: int = 0
    cache_peak: int = 0
    free_least: int = 1 << 62
    pte_peak: int = 0
    pid: int | None = None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        self.cache_before = self.cache_peak = page_cache()
        done = threading.Event()
        thread = threading.Thread(target=self._look, args=(done,))
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _look(self, done: threading.Event) -> None:
        while not done.wait(0.01):
            memory = fields("/proc/meminfo")
            self.cache_peak = max(self.cache_peak, memory["Cached"] - memory["Shmem"])
            self.free_least = min(self.free_least, memory["MemFree"])
            if self.pid:
                with contextlib.suppress(OSError):
                    self.pte_peak = max(self.pte_peak, status_of(self.pid, "VmPTE"))


def status_of(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0


@contextlib.contextmanager
def segment(size: int, *, pieces: int = 1, stride: int = 0, directory: str = "/dev/shm") -> Iterator[Path]:
    """Make a segment of random bytes: dense, or *pieces* of *size* each *stride* apart."""
    path = Path(directory) / f"collector-bench-{uuid.uuid4().hex}"
    block = os.urandom(min(size, 16 * MIB))
    try:
        with path.open("xb") as file:
            for piece in range(pieces):
                for at in range(0, size, len(block)):
                    os.pwrite(file.fileno(), block, piece * stride + at)
            if stride:
                file.truncate(pieces * stride)
        yield path
    finally:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def mounted(what: object, point: Path, kind: str, options: str) -> Iterator[Path]:
    point.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", kind, "-o", options, what, point)
    try:
        yield point
    finally:
        for _ in range(20):
            if subprocess.run(["umount", point], check=False, capture_output=True).returncode == 0:
                break
            time.sleep(0.2)
        point.rmdir()


@contextlib.contextmanager
def disk(scratch: Path, size: int) -> Iterator[Path]:
    """
    Mount a fresh ext4 of *size* bytes: a loop device with direct I/O over a file whose blocks are all allocated.

    On a thinly provisioned disk, or one that discards deleted blocks, writers wait for new blocks: there 2 GiB took
    2.0 to 4.0 s with any tool, here 1.7 s. That would measure the storage behind the disk.
    """
    image, point = scratch / "disk.img", scratch / "disk"
    run("dd", "if=/dev/zero", f"of={image}", "bs=8M", f"count={size // (8 * MIB)}", "oflag=direct", "conv=fsync")
    loop = run("losetup", "--find", "--show", "--direct-io=on", image)
    try:
        run("mkfs.ext4", "-q", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", loop)
        with mounted(loop, point, "ext4", "rw"):
            yield point
    finally:
        run("losetup", "-d", loop)
        image.unlink()
