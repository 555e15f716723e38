"""
The figures of one second, read from files that were opened at the start.

What the sampler reads at each of its ticks is not read again.
"""

from __future__ import annotations

import os

from collector.host.disk_counters import BusiestDisks
from collector.host.files import Host
from collector.host.kernelfile import OptionalFile, number_after
from collector.host.memory import Psi, allocstall
from collector.model.recording import DISKS, MISSING, NO_DISK, disk_key

MEMINFO = (b"MemAvailable:", b"MemFree:", b"Shmem:", b"Dirty:", b"Writeback:")
VMSTAT = (
    b"\npgfault ", b"\npgmajfault ", b"\npgscan_direct ", b"\npgscan_kswapd ", b"\npgsteal_direct ",
    b"\npgsteal_kswapd ",
)  # fmt: skip
SHM = "/dev/shm"  # noqa: S108 - it is what is measured


class MachineCounters:
    """
    The machine's part of a row.

    Args:
        disk: Major and minor number of the archive's disk; ``None`` if unknown.
    """

    def __init__(self, host: Host, disk: tuple[int, int] | None) -> None:
        self._shm = host.path(SHM)
        self._meminfo = OptionalFile(host, "/proc/meminfo", size=8192)
        self._loadavg = OptionalFile(host, "/proc/loadavg", size=256)
        self._io, self._cpu = Psi(host, "io"), Psi(host, "cpu")
        self._disks = BusiestDisks(host, disk, DISKS)

    def read(self, vmstat: bytes, memory: Psi) -> tuple[list[int], list[int]]:
        """
        Return the figures from ``psi_memory_some`` to ``dev_shm_size``, in the order of `recording.COLUMNS`, then those
        of the disks; `MISSING` for what there is not.

        Args:
            vmstat: The text of ``/proc/vmstat``, as just read.
            memory: Memory stalls, likewise.
        """
        self._io.stalled_us()
        psi = (memory.last("some"), memory.last("full"), self._io.last("some"), self._io.last("full"))
        meminfo = self._meminfo.read()
        kib = [number_after(meminfo, key) for key in MEMINFO]
        events = [number_after(vmstat, key) for key in VMSTAT]
        figures = [
            *psi,
            self._cpu.stalled_us(),
            *(None if number is None else 1024 * number for number in kib),
            *events,
            allocstall(vmstat),
            number_after(vmstat, b"\noom_kill "),
            *self._load(),
            *self._space(),
        ]
        return [MISSING if figure is None else figure for figure in figures], self._disk_figures()

    def _load(self) -> tuple[int | None, int | None, int | None]:
        """Return the load of the last minute in hundredths, tasks that run, and tasks. Source: proc_loadavg(5)."""
        words = self._loadavg.read().split()
        if len(words) != 5:
            return None, None, None
        one, tasks = words[0], words[3]
        runnable, _, total = tasks.partition(b"/")
        return round(100 * float(one)), int(runnable), int(total)

    def _space(self) -> tuple[int | None, int | None]:
        """Return what of ``/dev/shm`` is used, and its size, in bytes."""
        try:
            space = os.statvfs(self._shm)
        except OSError:
            return None, None
        return max(0, space.f_blocks - space.f_bfree) * space.f_frsize, space.f_blocks * space.f_frsize

    def _disk_figures(self) -> list[int]:
        figures: list[int] = []
        shown = self._disks.read()
        for disk in shown:
            figures += NO_DISK if disk is None else (disk_key(disk.major, disk.minor), *disk[2:])
        return [*figures, *(MISSING,) * ((DISKS - len(shown)) * len(NO_DISK))]
