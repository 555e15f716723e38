"""
The memory limit that the process itself lives under, cgroup v1 or v2.

Source: Documentation/admin-guide/cgroup-v2.rst, "Memory"; cgroup-v1/memory.rst, section 5.2.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from collector.host.files import Host
from collector.host.kernelfile import KernelFile, numbers
from collector.model.pressure import CgroupSample

UNLIMITED = 1 << 60
"""v1 writes "no limit" as the largest page-aligned number, 2^63 - 4096."""


class OwnCgroup:
    """The own memory cgroup's pre-opened files; found once, at the start."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._usage: KernelFile | None = None
        self._stat: KernelFile | None = None
        self._limits: list[KernelFile] = []
        try:
            self._open()
        except OSError:
            self.close()

    def sample(self) -> CgroupSample | None:
        """Return usage without the page cache that can be dropped at once; ``None`` if nothing limits it."""
        if self._usage is None or self._stat is None:
            return None
        stat = numbers(self._stat.read())
        limits = [int(text) for file in self._limits if (text := file.read().strip()).isdigit()]
        limits.append(stat.get(b"hierarchical_memory_limit", UNLIMITED))
        limit = min(limits)
        if limit >= UNLIMITED:
            return None
        droppable = stat.get(b"total_inactive_file", stat.get(b"inactive_file", 0))
        usage = int(self._usage.read() or 0)
        return CgroupSample(used_bytes=max(0, usage - droppable), limit_bytes=limit)

    def close(self) -> None:
        """Close the files."""
        for file in (self._usage, self._stat, *self._limits):
            if file:
                file.close()
        self._usage = self._stat = None
        self._limits = []

    def _open(self) -> None:
        mounts = _mounts(self._host)
        memberships = _memberships(self._host)
        if "memory" in memberships and "memory" in mounts:
            root, path = mounts["memory"], memberships["memory"]
            base = _below(root, path)
            self._usage = KernelFile(self._host, f"{base}/memory.usage_in_bytes", size=64)
            self._stat = KernelFile(self._host, f"{base}/memory.stat", size=16_384)
        elif "" in memberships and "" in mounts:
            root, path = mounts[""], memberships[""]
            base = _below(root, path)
            self._usage = KernelFile(self._host, f"{base}/memory.current", size=64)
            self._stat = KernelFile(self._host, f"{base}/memory.stat", size=16_384)
            self._limits = self._limits_up(root, base)

    def _limits_up(self, root: str, base: str) -> list[KernelFile]:
        found = []
        directory = PurePosixPath(base)
        while directory != PurePosixPath(root) and directory != directory.parent:
            for name in ("memory.high", "memory.max"):
                try:
                    found.append(KernelFile(self._host, f"{directory}/{name}", size=64))
                except OSError:
                    continue  # the controller is not enabled on this level
            directory = directory.parent
        return found


def _below(root: str, path: str) -> str:
    return root if path == "/" else root + path


def _mounts(host: Host) -> dict[str, str]:
    """Return mount points by what is mounted: ``memory`` for v1's controller, the empty string for v2."""
    found: dict[str, str] = {}
    for line in host.read("/proc/self/mountinfo", limit=1 << 20).decode(errors="replace").splitlines():
        head, _, tail = line.partition(" - ")
        kind, _, options = tail.partition(" ")
        point = head.split(" ")[4]
        if kind == "cgroup2":
            found.setdefault("", point)
        elif kind == "cgroup" and "memory" in options.rsplit(" ", 1)[-1].split(","):
            found.setdefault("memory", point)
    return found


def _memberships(host: Host) -> dict[str, str]:
    """Return the own paths by controller, the empty string for v2. Source: cgroups(7)."""
    found: dict[str, str] = {}
    for line in host.read("/proc/self/cgroup", limit=65_536).decode(errors="replace").splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found
