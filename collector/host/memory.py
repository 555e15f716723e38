"""Memory figures of the machine: ``/proc/meminfo``, ``vmstat``, ``zoneinfo``, PSI."""

from __future__ import annotations

import os
import re
import select
from collections.abc import Iterator
from dataclasses import dataclass

from collector.host.files import Host
from collector.host.kernelfile import KernelFile, OptionalFile, number_after, numbers

PSI_PATH = "/proc/pressure/memory"
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MEMS_ALLOWED = re.compile(rb"^Mems_allowed_list:\s*([0-9,-]+)$", re.MULTILINE)
ZONE_LINE = re.compile(
    rb"^Node (\d+), zone "
    rb"|^ +(pages free|min|managed|nr_inactive_file|nr_active_file|nr_dirty|nr_writeback) +(\d+)"
    rb"|^ +protection: \(([0-9, ]+)\)",
    re.MULTILINE,
)


class Meminfo(KernelFile):
    """``/proc/meminfo``."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, "/proc/meminfo", size=8192)

    def figures(self) -> dict[bytes, int]:
        """Return bytes by name, e.g. ``b"MemAvailable"``."""
        return {name: 1024 * kib for name, kib in numbers(self.read(), separator=b":").items()}


class Vmstat(KernelFile):
    """``/proc/vmstat``: counts since boot."""

    def __init__(self, host: Host) -> None:
        super().__init__(host, "/proc/vmstat", size=32_768)

    def allocstall(self) -> int:
        """Return how many allocations entered direct reclaim, summed over zones."""
        return allocstall(self.read())


def allocstall(vmstat: bytes) -> int:
    """Return how many allocations entered direct reclaim, of the text of ``/proc/vmstat``; its lines follow another."""
    start = vmstat.find(b"\nallocstall")
    if start < 0:
        return 0
    end = vmstat.find(b"\n", vmstat.rfind(b"\nallocstall") + 1)
    return sum(numbers(vmstat[start : end if end > 0 else len(vmstat)]).values())


class Psi:
    """
    A file of ``/proc/pressure``, if the kernel has it and lets it be read (``psi=0`` makes reads fail).

    Args:
        resource: ``memory``, ``io`` or ``cpu``.
    """

    def __init__(self, host: Host, resource: str = "memory") -> None:
        self._file = OptionalFile(host, f"/proc/pressure/{resource}", size=512)

    def stalled_us(self) -> int | None:
        """Read for how many microseconds since boot some task stalled; return ``None`` without PSI."""
        self._file.read()
        return self.last("some")

    def last(self, kind: str) -> int | None:
        """Return the microseconds that some or all tasks (``full``) had stalled at the last reading."""
        text = self._file.text
        at = text.find(kind.encode())
        return number_after(text[at:], b"total=") if at >= 0 else None


class PsiTrigger:
    """
    A threshold on memory stall that the kernel watches.

    The kernel signals it by POLLPRI, which the event loop does not watch for; a surrounding epoll instance becomes
    readable instead.

    Args:
        kind: ``some`` or ``full``.
        stall_s: Stalled time within the window.
        window_s: 0.5 to 10 seconds; without CAP_SYS_RESOURCE a multiple of 2 (Linux 6.5).

    Raises:
        OSError: ``ENOENT`` or ``EOPNOTSUPP`` without PSI, ``EINVAL`` for values that the kernel refuses.

    Source: Documentation/accounting/psi.rst, "Monitoring for pressure thresholds".
    """

    def __init__(self, host: Host, *, kind: str, stall_s: float, window_s: float) -> None:
        self._fd = host.open(PSI_PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._epoll = select.epoll()
        try:
            os.write(self._fd, f"{kind} {round(stall_s * 1e6)} {round(window_s * 1e6)}\0".encode())
            self._epoll.register(self._fd, select.EPOLLPRI)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the threshold is exceeded."""
        return self._epoll.fileno()

    def clear(self) -> None:
        """
        Make the descriptor unreadable until the threshold is exceeded again; at most once per window.

        Polling consumes the event, so it cannot be confirmed by polling again. Source: psi_trigger_poll() in
        kernel/sched/psi.c.
        """
        self._epoll.poll(0)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._fd)


@dataclass(slots=True)
class Zone:
    """One zone, in pages; *index* is its position in its node, and in the *protection* of the zones below it."""

    node: int
    index: int
    free: int = 0
    minimum: int = 0
    managed: int = 0
    protection: tuple[int, ...] = ()
    file_pages: int = 0
    """Clean page cache of the whole node, which the kernel prints with the node's first zone."""


class Zoneinfo(KernelFile):
    """
    ``/proc/zoneinfo``, and the nodes that this process may allocate from. Source: mm/vmstat.c, mm/page_alloc.c.

    The file takes 64 KiB per node at 128 CPUs, most of it page sets that are not parsed: 0.4 ms.
    """

    def __init__(self, host: Host) -> None:
        super().__init__(host, "/proc/zoneinfo", size=1 << 20)
        self._allowed = _allowed_nodes(host)

    def room_bytes(self) -> dict[int, int]:
        """
        Return by node how much can be allocated before direct reclaim: free pages above what is kept back, and half
        of the clean page cache.

        A zone keeps back its minimum and, from allocations that a higher zone could serve, its ``protection``.
        """
        zones = [zone for zone in parse_zones(self.read()) if zone.managed]
        highest = max((zone.index for zone in zones), default=0)
        rooms: dict[int, int] = {}
        for zone in zones:
            if self._allowed is not None and zone.node not in self._allowed:
                continue
            kept = zone.minimum + (zone.protection[highest] if highest < len(zone.protection) else 0)
            pages = max(0, zone.free - kept) + max(0, zone.file_pages) // 2
            rooms[zone.node] = rooms.get(zone.node, 0) + pages * PAGE_BYTES
        return rooms


def parse_zones(zoneinfo: bytes) -> list[Zone]:
    """Return all zones, including those without pages, which count in a zone's index."""
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
    """Return the nodes that this process's cpuset lets it allocate from; ``None`` if unknown."""
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


def page(address: int) -> int:
    """Return where the page of *address* begins."""
    return address & -PAGE_BYTES
