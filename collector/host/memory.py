"""Memory figures of the machine: ``/proc/meminfo``, ``vmstat``, ``zoneinfo``, PSI, NUMA nodes."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from collector.host.files import Host
from collector.host.kernelfile import KernelFile, numbers

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
ZONE = re.compile(rb"^Node (\d+), zone")
HIGH = re.compile(rb"^\s+high\s+(\d+)\s*$")
FULL_AVG10 = re.compile(rb"^full avg10=([0-9.]+)", re.MULTILINE)


class Meminfo:
    """``/proc/meminfo``; `read` returns bytes by name, e.g. ``b"MemAvailable"``."""

    def __init__(self, host: Host, path: str = "/proc/meminfo") -> None:
        self._file = KernelFile(host, path, size=8192)

    def read(self) -> dict[bytes, int]:
        """Return every figure in bytes; a node's file has its ``Node N`` prefix taken off."""
        text = re.sub(rb"^Node \d+ ", b"", self._file.read(), flags=re.MULTILINE)
        return {name: 1024 * kib for name, kib in numbers(text, separator=b":").items()}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Vmstat:
    """``/proc/vmstat``: counts since boot."""

    def __init__(self, host: Host) -> None:
        self._file = KernelFile(host, "/proc/vmstat", size=32_768)

    def read(self) -> tuple[int, int]:
        """Return ``allocstall`` and ``pgscan_direct``, each summed over zones and kinds."""
        counts = numbers(self._file.read())
        stalls = sum(n for name, n in counts.items() if name.startswith(b"allocstall"))
        # pgscan_direct_throttle counts waits, not pages
        scans = sum(n for name, n in counts.items() if name.startswith(b"pgscan_direct") and b"throttle" not in name)
        return stalls, scans

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class MemoryPressure:
    """``/proc/pressure/memory``. A kernel may lack it, or refuse each read with EOPNOTSUPP (``psi=0``)."""

    def __init__(self, host: Host) -> None:
        self._file: KernelFile | None = None
        try:
            self._file = KernelFile(host, "/proc/pressure/memory", size=512)
            self._file.read()
        except OSError:
            self.close()
            self._file = None

    def full_avg10_percent(self) -> float | None:
        """Return the share of the last 10 s in which all tasks stalled; ``None`` without PSI."""
        found = FULL_AVG10.search(self._file.read()) if self._file else None
        return float(found[1]) if found else None

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


@dataclass(frozen=True, slots=True)
class Node:
    """A NUMA node's available memory: an estimate by the kernel's own rule, half of the page cache counts."""

    number: int
    available_bytes: int


class Nodes:
    """The NUMA nodes, if there is more than one: with one, the machine's own figures say the same."""

    def __init__(self, host: Host) -> None:
        root = "/sys/devices/system/node"
        try:
            names = [name for name in host.listdir(root) if re.fullmatch(r"node\d+", name)]
        except OSError:
            names = []
        self._files = (
            {int(name[4:]): Meminfo(host, f"{root}/{name}/meminfo") for name in names} if len(names) > 1 else {}
        )

    def read(self) -> list[Node]:
        """Return each node's estimate."""
        return [Node(number, _node_available(meminfo.read())) for number, meminfo in self._files.items()]

    def close(self) -> None:
        """Close the files."""
        for meminfo in self._files.values():
            meminfo.close()


def high_watermarks(zoneinfo: bytes) -> dict[int, int]:
    """Return the sum of the zones' high watermarks per NUMA node, in bytes. Source: mm/vmstat.c."""
    sums: dict[int, int] = {}
    node = 0
    for line in zoneinfo.splitlines():
        if zone := ZONE.match(line):
            node = int(zone[1])
        elif high := HIGH.match(line):
            sums[node] = sums.get(node, 0) + int(high[1]) * PAGE_BYTES
    return sums


def _node_available(figures: dict[bytes, int]) -> int:
    cache = figures.get(b"Active(file)", 0) + figures.get(b"Inactive(file)", 0) + figures.get(b"SReclaimable", 0)
    busy = figures.get(b"Dirty", 0) + figures.get(b"Writeback", 0)
    return max(0, figures.get(b"MemFree", 0) + cache // 2 - busy)
