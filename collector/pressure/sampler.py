"""
The sampler reads what the gate decides on.

All files are opened at the start: at crash time an open may need memory that is not available. A sample costs
0.15 ms, a tick 0.03 ms (two CPUs, one NUMA node).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable

from collector.host.cgroup import OwnCgroup
from collector.host.files import Host
from collector.host.filesystem import is_memory
from collector.host.memory import Meminfo, Psi, Vmstat, Zoneinfo
from collector.model.pressure import DiskSample, Distress, NodeSample, Sample, Tick
from collector.pressure.distress import History

TICK_S = 0.5
"""How often distress counters are read while nothing happens: 0.006 % of a core."""

SETTLE_S = 2.0
"""How often PSI updates its sums: in less time no distress shows."""


class Sampler:
    """Samples of one machine."""

    def __init__(self, host: Host | None = None) -> None:
        self._host = host or Host()
        self._meminfo = Meminfo(self._host)
        self.vmstat = Vmstat(self._host)
        self.psi = Psi(self._host)
        self._zoneinfo = Zoneinfo(self._host)
        self._cgroup = OwnCgroup(self._host)
        self._history = History()
        self.has_psi = self.psi.stalled_us() is not None

    @property
    def ticks(self) -> tuple[Tick, ...]:
        """The last seconds' counters, for another sampler of this machine."""
        return self._history.ticks

    @property
    def distress(self) -> Distress:
        """How hard processes struggled for memory at the last tick."""
        return self._history.judge().level

    def continue_from(self, ticks: Iterable[Tick]) -> None:
        """Continue from the more recent readings of another sampler."""
        self._history = History(ticks)

    def tick(self) -> None:
        """Read only the counters of distress; to be called every `TICK_S`."""
        self._history.add(
            Tick(
                taken_s=time.monotonic(),
                allocstall=self.vmstat.allocstall(),
                stalled_us=self.psi.stalled_us(),
            )
        )

    def sample(self, disk_fd: int | None = None) -> Sample:
        """
        Read everything once.

        Args:
            disk_fd: A descriptor on the archive's file system, to include its free space.
        """
        self.tick()
        figures = self._meminfo.figures()
        distress = self._history.judge()
        return Sample(
            taken_s=time.monotonic(),
            total_bytes=figures.get(b"MemTotal", 0),
            mem_available_bytes=figures.get(b"MemAvailable", 0),
            dirty_bytes=figures.get(b"Dirty", 0),
            writeback_bytes=figures.get(b"Writeback", 0),
            shmem_bytes=figures.get(b"Shmem", 0),
            nodes=tuple(NodeSample(node=node, room_bytes=room) for node, room in self._zoneinfo.room_bytes().items()),
            distress=distress.level,
            distress_reason=distress.reason,
            cgroup=self._cgroup.sample(),
            disk=None if disk_fd is None else sample_disk(disk_fd),
        )

    def settled_sample(self, disk_fd: int | None = None) -> Sample:
        """Read everything once, after watching distress for `SETTLE_S`: for a process that has just started."""
        self.tick()
        time.sleep(SETTLE_S)
        return self.sample(disk_fd)


def sample_disk(fd: int) -> DiskSample:
    """Return the space of the file system that *fd* is on, as an unprivileged writer would find it."""
    stat = os.fstatvfs(fd)
    return DiskSample(
        free_bytes=stat.f_bavail * stat.f_frsize,
        total_bytes=stat.f_blocks * stat.f_frsize,
        is_memory=is_memory(fd),
    )
