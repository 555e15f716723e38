"""What sysfs says of the disk that a file is on. Devices are numbers as ``st_dev`` has them."""

from __future__ import annotations

import os

BY_NUMBER = "/sys/dev/block"
FLUSHES = 15  # Documentation/block/stat.rst, "flush I/Os", Linux 5.5


def needs_stable_pages(device: int) -> bool:
    """Tell whether the disk of *device* must not see a page change while it is written."""
    return _attribute(device, "queue/stable_writes") == b"1"


def is_cached_below(device: int) -> bool:
    """Tell whether *device* is a loop device that passes what is written through the page cache of its image."""
    return _attribute(device, "loop/dio") == b"0"


def has_write_cache(device: int) -> bool:
    """Tell whether the disk of *device* may report a write done before the medium has it; so does one unknown."""
    return _attribute(device, "queue/write_cache") != b"write through"


def disks(device: int, *, by_number: str = BY_NUMBER) -> tuple[str, ...]:
    """Return the folders of the disks below *device*: it may be a partition, or put together of several (dm, md)."""
    return tuple(sorted(_disks(_folder(device, by_number))))


def flushes(folders: tuple[str, ...]) -> int | None:
    """Count the flushes that these disks have done, whoever asked for them; ``None`` where nobody can tell."""
    counters = [text.split() for folder in folders if (text := _read(f"{folder}/stat"))]
    if not counters or any(len(fields) <= FLUSHES for fields in counters):
        return None
    return sum(int(fields[FLUSHES]) for fields in counters)


def _folder(device: int, by_number: str) -> str:
    return f"{by_number}/{os.major(device)}:{os.minor(device)}"


def _disks(folder: str) -> set[str]:
    if os.path.exists(f"{folder}/partition"):
        return {os.path.dirname(os.path.realpath(folder))}
    try:
        parts = os.listdir(f"{folder}/slaves")
    except OSError:
        parts = []
    return {disk for part in parts for disk in _disks(f"{folder}/slaves/{part}")} or {os.path.realpath(folder)}


def _attribute(device: int, name: str) -> bytes | None:
    """Return what sysfs says of a disk, or of the disk that a partition is on."""
    folder = _folder(device, BY_NUMBER)
    return _read(f"{folder}/{name}") or _read(f"{folder}/../{name}")


def _read(path: str) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None  # no such disk: btrfs has a device number of its own making
    try:
        return os.read(fd, 512).strip()
    finally:
        os.close(fd)
