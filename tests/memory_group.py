"""A memory cgroup of a test's own, v1 or v2: what a process adds is counted there, slab included, and limited."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class MemoryGroup:
    """A fresh memory cgroup: what a process had before it moved in is charged elsewhere."""

    def __init__(self) -> None:
        unified = Path("/sys/fs/cgroup/cgroup.controllers")
        self._v2 = unified.exists() and "memory" in unified.read_text().split()
        base = Path("/sys/fs/cgroup") if self._v2 else Path("/sys/fs/cgroup/memory")
        if self._v2:
            (base / "cgroup.subtree_control").write_text("+memory")
        self.path = base / f"collector-test-{os.getpid()}-{time.monotonic_ns()}"
        self.path.mkdir()

    def limit(self, size: int) -> None:
        """Let it hold at most *size* bytes."""
        (self.path / ("memory.max" if self._v2 else "memory.limit_in_bytes")).write_text(str(size))

    def take(self, pid: int) -> None:
        """Move a process in."""
        (self.path / "cgroup.procs").write_text(str(pid))

    @property
    def peak_bytes(self) -> int:
        """The most that it has held."""
        return int((self.path / ("memory.peak" if self._v2 else "memory.max_usage_in_bytes")).read_text())

    @property
    def hits(self) -> int:
        """How often the limit was met: each time somebody in it had to reclaim memory."""
        if not self._v2:
            return int((self.path / "memory.failcnt").read_text())
        events = dict(line.split() for line in (self.path / "memory.events").read_text().splitlines())
        return int(events["max"])

    def remove(self) -> None:
        """Remove it; whoever is still in it moves to its parent."""
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
    """Make one for the time of the block."""
    group = MemoryGroup()
    try:
        yield group
    finally:
        group.remove()
