"""
The memory limit that the process itself lives under, cgroup v1 or v2.

Source: Documentation/admin-guide/cgroup-v2.rst, "Memory"; cgroup-v1/memory.rst, section 5.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple

from collector.host.files import Host
from collector.host.kernelfile import KernelFile, numbers
from collector.model.pressure import CgroupSample

UNLIMITED = 1 << 60
"""v1 writes "no limit" as the largest page-aligned number, 2^63 - 4096."""


class Names(NamedTuple):
    """What a cgroup version calls usage and limits."""

    usage: str
    limits: tuple[str, ...]


VERSIONS = {
    "memory": Names("memory.usage_in_bytes", ("memory.limit_in_bytes",)),
    "": Names("memory.current", ("memory.high", "memory.max")),
}
"""By controller, as ``/proc/self/cgroup`` names it: v1's memory controller, or v2's one tree."""


@dataclass(frozen=True, slots=True)
class Level:
    """One cgroup on the way up: its usage, its statistics, and what limits it."""

    usage: KernelFile
    stat: KernelFile
    limits: tuple[KernelFile, ...]

    def sample(self) -> CgroupSample | None:
        """Return usage without the page cache that can be dropped at once; ``None`` if nothing limits it."""
        limit = min((int(text) for file in self.limits if (text := file.read().strip()).isdigit()), default=UNLIMITED)
        if limit >= UNLIMITED:
            return None
        stat = numbers(self.stat.read())
        droppable = stat.get(b"total_inactive_file", stat.get(b"inactive_file", 0))
        return CgroupSample(used_bytes=max(0, int(self.usage.read() or 0) - droppable), limit_bytes=limit)

    def close(self) -> None:
        """Close the files."""
        for file in (self.usage, self.stat, *self.limits):
            file.close()


class OwnCgroup:
    """
    The own memory cgroup and those above it, pre-opened; found at the start, and again after a move.

    A limit counts against the usage of the cgroup that has it: siblings may have used up an ancestor's.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._levels: list[Level] = []
        self._find()

    def sample(self) -> CgroupSample | None:
        """Return the level with the least left; ``None`` if nothing limits any."""
        try:
            return self._least()
        except (OSError, ValueError):  # ENODEV: moved elsewhere, and the old one was removed
            self.close()
            self._find()
        try:
            return self._least()
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """Close the files."""
        for level in self._levels:
            level.close()
        self._levels = []

    def _least(self) -> CgroupSample | None:
        samples = [sample for level in self._levels if (sample := level.sample()) is not None]
        return min(samples, key=lambda sample: sample.limit_bytes - sample.used_bytes, default=None)

    def _find(self) -> None:
        try:
            mounts, memberships = _mounts(self._host), _memberships(self._host)
        except (OSError, ValueError, IndexError):
            return
        for controller, names in VERSIONS.items():
            if controller in mounts and controller in memberships:
                root = PurePosixPath(mounts[controller])
                self._climb(root, PurePosixPath(_below(str(root), memberships[controller])), names)
                return

    def _climb(self, root: PurePosixPath, directory: PurePosixPath, names: Names) -> None:
        while True:
            if (level := self._level(directory, names)) is not None:
                self._levels.append(level)
            if directory in (root, directory.parent):
                return
            directory = directory.parent

    def _level(self, directory: PurePosixPath, names: Names) -> Level | None:
        opened: list[KernelFile] = []
        try:
            for name in (names.usage, "memory.stat", *names.limits):
                opened.append(KernelFile(self._host, f"{directory}/{name}", size=16_384))
        except OSError:  # the root of the tree has no limits; the controller may end above this level
            for file in opened:
                file.close()
            return None
        return Level(opened[0], opened[1], tuple(opened[2:]))


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
