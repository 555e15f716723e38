"""What ``/proc/diskstats`` counts, of the few disks that matter."""

from __future__ import annotations

import os
from typing import NamedTuple

from collector.host.disk import BY_NUMBER, disks
from collector.host.files import Host
from collector.host.kernelfile import OptionalFile

DISKSTATS_BYTES = 65_536
"""What is read of it: about 600 disks and partitions."""

SHOWN_FIELDS = (0, 1, 5, 9, 11, 12)


class DiskCounters(NamedTuple):
    """A disk and its counters since boot; Documentation/admin-guide/iostats.rst, fields 3, 7, 9 and 10."""

    major: int
    minor: int
    read_sectors: int
    written_sectors: int
    in_flight: int
    busy_ms: int


class BusiestDisks:
    """
    One disk that is always shown, and the busiest of the others.

    Args:
        first: Major and minor number of that disk; ``None`` if it is not known.
        count: How many in all.
    """

    def __init__(self, host: Host, first: tuple[int, int] | None, count: int) -> None:
        self._host = host
        self._file = OptionalFile(host, "/proc/diskstats", size=DISKSTATS_BYTES)
        self._first = first
        number = f"{first[0]}:{first[1]}" if first else "-"
        self._first_file = OptionalFile(host, f"{BY_NUMBER}/{number}/stat", size=512)
        self._count = count
        self._whole: dict[tuple[int, int], bool] = {}
        self._busy_ms: dict[tuple[int, int], int] = {}
        self._shown: frozenset[tuple[int, int]] = frozenset()

    def read(self) -> list[DiskCounters | None]:
        """
        Return them; the first, or ``None``, then the busiest since the last reading.

        A disk that is shown stays until another is busier, so that what is read of an idle machine is continuous.
        """
        listed = parse_diskstats(self._file.read())
        self._whole = {key: self._is_whole(key) for key in [disk[:2] for disk in listed]}
        found = {disk[:2]: disk for disk in listed if self._whole[disk[:2]]}
        others = [key for key in found if key != self._first]
        others.sort(key=lambda key: (self._busy_ms.get(key, 0) - found[key].busy_ms, key not in self._shown, key))
        others = others[: self._count - 1]
        self._busy_ms = {key: disk.busy_ms for key, disk in found.items()}
        self._shown = frozenset(others)
        first = found.get(self._first) or self._read(self._first) if self._first else None
        return [first, *(found[key] for key in others)]

    def _read(self, first: tuple[int, int]) -> DiskCounters | None:
        """Return the counters of a disk that comes after what is read of ``/proc/diskstats``, from its own file."""
        return next(iter(parse_diskstats(b"%d %d - " % first + self._first_file.read())), None)

    def _is_whole(self, key: tuple[int, int]) -> bool:
        """Return whether it is a disk rather than a partition of one; sysfs is asked once, until it is unplugged."""
        if (known := self._whole.get(key)) is not None:
            return known
        return not os.path.exists(self._host.path(f"{BY_NUMBER}/{key[0]}:{key[1]}/partition"))


def parse_diskstats(text: bytes) -> list[DiskCounters]:
    """Return the disks and partitions that were ever used; a line that was cut off is left out."""
    found = []
    for line in text.splitlines():
        fields = line.split(None, 14)
        if len(fields) < 14 or (fields[3] == b"0" and fields[7] == b"0"):
            continue
        numbers = [fields[at] for at in SHOWN_FIELDS]
        if all(number.isdigit() for number in numbers):  # requests in flight were below 0 in some kernels
            found.append(DiskCounters(*map(int, numbers)))
    return found


def disk_of(path: str) -> tuple[int, int] | None:
    """Return the numbers of the disk that *path* is on, the first of several; ``None`` if unknown (btrfs, NFS)."""
    try:
        for folder in disks(os.stat(path).st_dev):
            with open(f"{folder}/dev", encoding="ascii") as file:
                major, _, minor = file.read().strip().partition(":")
                return int(major), int(minor)
    except (OSError, ValueError):
        pass
    return None


def disk_name(number: str) -> str:
    """Return the kernel's name of the disk with a number such as ``8:0``; empty if it is gone."""
    try:
        return os.path.basename(os.readlink(f"{BY_NUMBER}/{number}"))
    except OSError:
        return ""
