"""
The sampler: reads what the gate decides on.

All files are opened once, at the start: at crash time an open may need memory that is not there.
One sample costs 0.3 ms with two CPUs and one NUMA node.
"""

from __future__ import annotations

import os
import time

from collector.host.cgroup import OwnCgroup
from collector.host.files import Host
from collector.host.filesystem import is_memory
from collector.host.kernelfile import KernelFile
from collector.host.memory import Meminfo, MemoryPressure, Nodes, Vmstat, high_watermarks
from collector.model.pressure import DiskSample, NodeSample, Sample

WATERMARK_AGE_S = 30.0
"""``/proc/zoneinfo`` grows with CPUs (64 KiB at 128); its watermarks move only with sysctls and boosts."""


class Sampler:
    """
    Samples of one machine.

    Args:
        host: The door to the machine's files.
    """

    def __init__(self, host: Host | None = None) -> None:
        self._host = host or Host()
        self._meminfo = Meminfo(self._host)
        self._vmstat = Vmstat(self._host)
        self._psi = MemoryPressure(self._host)
        self._nodes = Nodes(self._host)
        self._zoneinfo = KernelFile(self._host, "/proc/zoneinfo", size=1 << 20)
        self._cgroup = OwnCgroup(self._host)
        self._watermarks: dict[int, int] = {}
        self._watermarks_s = float("-inf")
        self.has_psi = self._psi.full_avg10_percent() is not None

    def sample(self, disk_fd: int | None = None) -> Sample:
        """
        Read everything once.

        Args:
            disk_fd: A descriptor on the archive's file system, to include its free space.
        """
        figures = self._meminfo.read()
        allocstall, pgscan_direct = self._vmstat.read()
        watermarks = self._current_watermarks()
        return Sample(
            taken_s=time.monotonic(),
            total_bytes=figures.get(b"MemTotal", 0),
            free_bytes=figures.get(b"MemFree", 0),
            mem_available_bytes=figures.get(b"MemAvailable", 0),
            dirty_bytes=figures.get(b"Dirty", 0),
            writeback_bytes=figures.get(b"Writeback", 0),
            shmem_bytes=figures.get(b"Shmem", 0),
            cached_bytes=figures.get(b"Cached", 0),
            high_watermark_bytes=sum(watermarks.values()),
            allocstall=allocstall,
            pgscan_direct=pgscan_direct,
            psi_full_avg10_percent=self._psi.full_avg10_percent(),
            nodes=tuple(
                NodeSample(
                    node=node.number,
                    available_bytes=node.available_bytes,
                    high_watermark_bytes=watermarks.get(node.number, 0),
                )
                for node in self._nodes.read()
            ),
            cgroup=self._cgroup.sample(),
            disk=None if disk_fd is None else sample_disk(disk_fd),
        )

    def close(self) -> None:
        """Close all files."""
        for part in (self._meminfo, self._vmstat, self._psi, self._nodes, self._cgroup, self._zoneinfo):
            part.close()

    def _current_watermarks(self) -> dict[int, int]:
        now = time.monotonic()
        if now - self._watermarks_s > WATERMARK_AGE_S:
            self._watermarks = high_watermarks(self._zoneinfo.read())
            self._watermarks_s = now
        return self._watermarks


def sample_disk(fd: int) -> DiskSample:
    """Return the space of the file system that *fd* is on, as an unprivileged writer would find it."""
    stat = os.fstatvfs(fd)
    return DiskSample(
        free_bytes=stat.f_bavail * stat.f_frsize,
        total_bytes=stat.f_blocks * stat.f_frsize,
        is_memory=is_memory(fd),
    )
