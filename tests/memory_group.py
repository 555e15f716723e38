"""A memory cgroup (v1 or v2) for one test: counts what a process adds, slab included, and can limit it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class MemoryGroup:
    """A new memory cgroup. What a process had before it was moved in stays charged to its old one."""

    def __init__(self) -> None:
        unified = Path("/sys/fs/cgroup/cgroup.controllers")
        self._v2 = unified.exists() and "memory" in unified.read_text().split()
        base = Path("/sys/fs/cgroup") if self._v2 else Path("/sys/fs/cgroup/memory")
        if self._v2:
            (base / "cgroup.subtree_control").write_text("+memory")
        self.path = base / f"collector-test-{os.getpid()}-{time.monotonic_ns()}"
        self.path.mkdir()

    def limit(self, size: int) -> None:
        """Limit it to *size* bytes."""
        (self.path / ("memory.max" if self._v2 else "memory.limit_in_bytes")).write_text(str(size))

    def take(self, pid: int) -> None:
        """Move a process in."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def cache(self) -> tuple[int, int]:
        """Return the bytes of shared memory and of page cache of files that are charged to it now."""
        stat = dict(line.split() for line in (self.path / "memory.stat").read_text().splitlines())
        shmem = int(stat["shmem"])
        return shmem, int(stat["file" if self._v2 else "cache"]) - shmem

    @property
    def peak_bytes(self) -> int:
        """Highest charge so far."""
        return int((self.path / ("memory.peak" if self._v2 else "memory.max_usage_in_bytes")).read_text())

    @property
    def hits(self) -> int:
        """How often the limit was reached: each time, a process in it had to reclaim memory."""
        if not self._v2:
            return int((self.path / "memory.failcnt").read_text())
        events = dict(line.split() for line in (self.path / "memory.events").read_text().splitlines())
        return int(events["max"])

    def remove(self) -> None:
        """Move its processes to its parent and remove it."""
        for pid in (self.path / "cgroup.procs").read_text().split():
            with suppress(OSError):
                (self.path.parent / "cgroup.procs").write_text(pid)
        for _ in range(200):
            with suppress(OSError):
                self.path.rmdir()
                return
            time.sleep(0.01)
        self.path.rmdir()


@contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """Create one, and remove it after the block."""
    group = MemoryGroup()
    try:
        yield group
    finally:
        group.remove()
