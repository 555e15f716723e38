"""Memory figures of the machine: ``/proc/meminfo``, ``vmstat``, ``zoneinfo``, PSI."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from collector.host.files import Host
from collector.host.kernelfile import KernelFile, numbers

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
SOME_TOTAL = re.compile(rb"^some .*total=(\d+)", re.MULTILINE)
MEMS_ALLOWED = re.compile(rb"^Mems_allowed_list:\s*([0-9,-]+)$", re.MULTILINE)
ZONE_LINE = re.compile(
    rb"^Node (\d+), zone "
    rb"|^ +(pages free|min|managed|nr_inactive_file|nr_active_file|nr_dirty|nr_writeback) +(\d+)"
    rb"|^ +protection: \(([0-9, ]+)\)",
    re.MULTILINE,
)


class Meminfo:
    """``/proc/meminfo``; `read` returns bytes by name, e.g. ``b"MemAvailable"``."""

    def __init__(self, host: Host) -> None:
        self._file = KernelFile(host, "/proc/meminfo", size=8192)

    def read(self) -> dict[bytes, int]:
        """Return every figure in bytes."""
        return {name: 1024 * kib for name, kib in numbers(self._file.read(), separator=b":").items()}

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Vmstat:
    """``/proc/vmstat``: counts since boot."""

    def __init__(self, host: Host) -> None:
        self._file = KernelFile(host, "/proc/vmstat", size=32_768)

    def allocstall(self) -> int:
        """Return how many allocations had to reclaim memory themselves, summed over zones."""
        counts = numbers(self._file.read())
        return sum(n for name, n in counts.items() if name.startswith(b"allocstall"))

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

    def stalled_us(self) -> int | None:
        """Return the microseconds since boot in which some task stalled for memory; ``None`` without PSI."""
        found = SOME_TOTAL.search(self._file.read()) if self._file else None
        return int(found[1]) if found else None

    def close(self) -> None:
        """Close the file."""
        if self._file:
            self._file.close()


@dataclass(slots=True)
class Zone:
    """One zone, in pages; *index* is its place in its node, and in the *protection* of the zones below it."""

    node: int
    index: int
    free: int = 0
    minimum: int = 0
    managed: int = 0
    protection: tuple[int, ...] = ()
    file_pages: int = 0
    """Of the whole node, told with its first zone: page cache that is neither dirty nor being written."""


class Zoneinfo:
    """
    ``/proc/zoneinfo``, and the nodes that this process may allocate from. Source: mm/vmstat.c, mm/page_alloc.c.

    64 KiB for each node at 128 CPUs, most of it page sets that are passed over: 0.4 ms.
    """

    def __init__(self, host: Host) -> None:
        self._file = KernelFile(host, "/proc/zoneinfo", size=1 << 20)
        self._allowed = _allowed_nodes(host)

    def room_bytes(self) -> dict[int, int]:
        """
        Return by node what can be had before anybody must reclaim: free pages above what is kept back, and half of
        the page cache that can be dropped at once.

        A zone keeps back its minimum, and from allocations that a higher zone could serve its ``protection``, too.
        """
        zones = [zone for zone in parse_zones(self._file.read()) if zone.managed]
        highest = max((zone.index for zone in zones), default=0)
        rooms: dict[int, int] = {}
        for zone in zones:
            if self._allowed is not None and zone.node not in self._allowed:
                continue
            kept = zone.minimum + (zone.protection[highest] if highest < len(zone.protection) else 0)
            pages = max(0, zone.free - kept) + max(0, zone.file_pages) // 2
            rooms[zone.node] = rooms.get(zone.node, 0) + pages * PAGE_BYTES
        return rooms

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def parse_zones(zoneinfo: bytes) -> list[Zone]:
    """Return all zones, also those without pages: a zone's index counts them."""
    zones: list[Zone] = []
    for node, name, number, protection in ZONE_LINE.findall(zoneinfo):
        if node:
            last = zones[-1] if zones else None
            index = last.index + 1 if last is not None and last.node == int(node) else 0
            zones.append(Zone(node=int(node), index=index))
        elif not zones:
            continue
        elif protection:
            zones[-1].protection = tuple(int(pages) for pages in protection.split(b","))
        else:
            _enter(zones[-1], name, int(number))
    return zones


def _enter(zone: Zone, name: bytes, pages: int) -> None:
    match name:
        case b"pages free":
            zone.free = pages
        case b"min":
            zone.minimum = pages
        case b"managed":
            zone.managed = pages
        case b"nr_inactive_file" | b"nr_active_file":
            zone.file_pages += pages
        case b"nr_dirty" | b"nr_writeback":
            zone.file_pages -= pages


def _allowed_nodes(host: Host) -> frozenset[int] | None:
    """Return the nodes that this process's cpuset lets it allocate from; ``None`` if it does not say."""
    try:
        status = host.read("/proc/self/status", limit=65_536)
    except OSError:
        return None
    found = MEMS_ALLOWED.search(status)
    return None if found is None else frozenset(_ranges(found[1].decode()))


def _ranges(text: str) -> Iterator[int]:
    """Yield the numbers of a list such as ``0-3,8``. Source: cpuset(7), "List format"."""
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)
