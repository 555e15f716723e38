"""
The memory limits of this process's cgroup and those above it, for cgroup v1 and v2.

Source: Documentation/admin-guide/cgroup-v2.rst, "Memory"; cgroup-v1/memory.rst, section 5.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath

from collector.host.cgroup_membership import CGROUP_BYTES, hierarchies, memberships
from collector.host.files import Host
from collector.host.kernelfile import KernelFile, numbers
from collector.model.pressure import CgroupSample

UNLIMITED = 1 << 60
"""v1 writes "no limit" as the largest page-aligned number, 2^63 - 4096."""


VERSIONS = {
    "memory": ("memory.stat", "memory.usage_in_bytes", "memory.limit_in_bytes"),
    "": ("memory.stat", "memory.current", "memory.high", "memory.max"),
}
"""Files for statistics, usage and limits, by controller as in ``/proc/self/cgroup``; v2 has an empty name there."""


@dataclass(frozen=True, slots=True)
class CgroupLevel:
    """One memory cgroup, with its files open."""

    stat: KernelFile
    usage: KernelFile
    limits: tuple[KernelFile, ...]

    def sample(self) -> CgroupSample | None:
        """Return the usage without inactive page cache; ``None`` if there is no limit."""
        limit = min((int(text) for file in self.limits if (text := file.read().strip()).isdigit()), default=UNLIMITED)
        if limit >= UNLIMITED:
            return None
        stat = numbers(self.stat.read())
        droppable = stat.get(b"total_inactive_file", stat.get(b"inactive_file", 0))
        return CgroupSample(used_bytes=max(0, int(self.usage.read() or 0) - droppable), limit_bytes=limit)


class OwnCgroup:
    """
    This process's memory cgroup and those above it, opened at the start and again after a move.

    Each limit applies to the usage of its own cgroup: siblings may have used up an ancestor's.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._levels: list[CgroupLevel] = []
        self._find()

    def sample(self) -> CgroupSample | None:
        """Return the level with the least memory left; ``None`` if there is no limit."""
        try:
            return self._least()
        except (OSError, ValueError):  # ENODEV: moved to another cgroup, and the old one was removed
            self._find()
        try:
            return self._least()
        except (OSError, ValueError):
            return None

    def _least(self) -> CgroupSample | None:
        samples = [sample for level in self._levels if (sample := level.sample()) is not None]
        return min(samples, key=lambda sample: sample.limit_bytes - sample.used_bytes, default=None)

    def _find(self) -> None:
        self._levels = []
        try:
            mounts = {controller: one for one in hierarchies(self._host) for controller in one.controllers or ("",)}
            text = self._host.read("/proc/self/cgroup", limit=CGROUP_BYTES)
        except OSError:
            return
        paths = {controller: one.path for one in memberships(text) for controller in one.controllers.split(",")}
        for controller, names in VERSIONS.items():
            if controller in mounts and controller in paths:
                root = PurePosixPath(mounts[controller].point)
                own = root / (mounts[controller].relative(paths[controller]) or "")
                levels = (self._level(path, names) for path in (own, *own.parents) if path.is_relative_to(root))
                self._levels = [level for level in levels if level is not None]
                return

    def _level(self, directory: PurePosixPath, names: tuple[str, ...]) -> CgroupLevel | None:
        try:
            opened = [KernelFile(self._host, f"{directory}/{name}", size=16_384) for name in names]
        except OSError:  # the root has no limits; the controller may not be enabled this far down
            return None
        return CgroupLevel(opened[0], opened[1], tuple(opened[2:]))
