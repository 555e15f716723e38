"""What sysfs says about the disk that a file is on. *device* is an ``st_dev``."""

from __future__ import annotations

import os

from collector.host.files import read_at

BY_NUMBER = "/sys/dev/block"
FLUSHES = 15  # Documentation/block/stat.rst, "flush I/Os", Linux 5.5


def needs_stable_pages(device: int) -> bool:
    """Return whether pages must not change while they are being written to the disk of *device*."""
    return _attribute(device, "queue/stable_writes") == b"1"


def is_cached_below(device: int) -> bool:
    """Return whether *device* is a loop device that writes through the page cache of its image."""
    return _attribute(device, "loop/dio") == b"0"


def has_write_cache(device: int) -> bool:
    """Return whether the disk of *device* may report a write before it is on the medium; true if unknown."""
    return _attribute(device, "queue/write_cache") != b"write through"


def disks(device: int) -> tuple[str, ...]:
    """Return the sysfs directories of the disks below *device*, which may be a partition or composite (dm, md)."""
    return tuple(sorted(_disks(_folder(device))))


def flushes(folders: tuple[str, ...]) -> int | None:
    """Return how many flushes these disks have done since boot, for all users; ``None`` if unknown."""
    counters = [text.split() for folder in folders if (text := _read(f"{folder}/stat"))]
    if not counters or any(len(fields) <= FLUSHES for fields in counters):
        return None
    return sum(int(fields[FLUSHES]) for fields in counters)


def _folder(device: int) -> str:
    return f"{BY_NUMBER}/{os.major(device)}:{os.minor(device)}"


def _disks(folder: str) -> set[str]:
    if os.path.exists(f"{folder}/partition"):
        return {os.path.dirname(os.path.realpath(folder))}
    try:
        parts = os.listdir(f"{folder}/slaves")
    except OSError:
        parts = []
    return {disk for part in parts for disk in _disks(f"{folder}/slaves/{part}")} or {os.path.realpath(folder)}


def _attribute(device: int, name: str) -> bytes | None:
    """Return an attribute of a disk, or of the disk that a partition is on."""
    folder = _folder(device)
    return _read(f"{folder}/{name}") or _read(f"{folder}/../{name}")


def _read(path: str) -> bytes | None:
    try:
        return read_at(None, path, 512).strip()
    except OSError:
        return None  # no such disk: btrfs makes up its own device numbers
