"""
What sysfs says of each disk.

``stat``, ``inflight`` and ``device/state`` take no lock that I/O could hold. The settings may: before Linux 6.15 those
of the queue take its ``sysfs_lock``, which whoever changes its scheduler holds until all I/O in flight has ended, on a
dead disk never. Source: block/blk-sysfs.c, block/elevator.c.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from collector.host.files import READ_FLAGS, Host, OpenFd, read_at
from collector.model.text import escape, escape_name

FOLDER = "/sys/block"
STATE = ("size", "ro", "stat", "inflight", "device/state", "md/array_state", "md/degraded", "dm/name", "dm/suspended")
SETTINGS = (
    "queue/scheduler", "queue/nr_requests", "queue/write_cache", "queue/rotational", "queue/wbt_lat_usec",
    "queue/max_sectors_kb", "queue/io_timeout", "queue/read_ahead_kb", "queue/nomerges", "queue/logical_block_size",
    "queue/physical_block_size", "queue/stable_writes", "queue/zoned", "device/model", "device/vendor", "device/rev",
    "device/firmware_rev", "device/queue_depth", "device/timeout", "device/ioerr_cnt", "device/iorequest_cnt",
    "device/iodone_cnt", "device/iotmo_cnt", "dm/uuid", "md/level", "md/raid_disks", "md/sync_action",
    "md/sync_completed", "md/mismatch_cnt", "loop/backing_file", "loop/dio", "mm_stat",
)  # fmt: skip
LIMIT = 4096
IN_FLIGHT = 8  # Documentation/block/stat.rst
IOS = (0, 4)


class DiskRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    A line of ``disks.jsonl`` or of ``queues.jsonl``: a disk's files below ``/sys/block/NAME``, those that it has.

    *slaves* are the disks and partitions that it is made of.
    """

    name: str
    files: dict[str, str]
    slaves: tuple[str, ...] = ()

    @property
    def busy(self) -> tuple[int, int]:
        """Its requests in flight, and all that it has done since boot."""
        counters = [int(word) for word in self.files.get("stat", "").split() if word.isdigit()]
        if len(counters) <= IN_FLIGHT:
            return 0, 0
        return counters[IN_FLIGHT], sum(counters[at] for at in IOS)

    @property
    def is_used(self) -> bool:
        """Whether anything is behind it, or in flight: a loop device without a file has no bytes."""
        return self.files.get("size", "0") != "0" or self.busy[0] > 0


def disk_names(host: Host) -> list[str]:
    return host.listdir(FOLDER)


def state_of(host: Host, name: str) -> DiskRow:
    """Return what is known of a disk without any lock."""
    return _row(host, name, STATE, slaves=True)


def settings_of(host: Host, name: str) -> DiskRow:
    """Return a disk's settings; may wait for as long as somebody changes its scheduler."""
    return _row(host, name, SETTINGS)


def _row(host: Host, name: str, wanted: tuple[str, ...], *, slaves: bool = False) -> DiskRow:
    try:
        fd = host.open(f"{FOLDER}/{name}", READ_FLAGS | os.O_DIRECTORY)
    except OSError:  # it was removed
        return DiskRow(name=escape_name(name), files={})
    with OpenFd(fd) as folder:
        files = dict(_files(folder, wanted))
        return DiskRow(name=escape_name(name), files=files, slaves=tuple(_slaves(folder)) if slaves else ())


def _files(folder: int, wanted: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield those of *wanted* that are there; directories that are not (``md``, ``dm``) are looked up once."""
    there: dict[str, bool] = {}
    for name in wanted:
        parent = name.partition("/")[0] if "/" in name else ""
        if parent and not there.setdefault(parent, os.access(parent, os.F_OK, dir_fd=folder)):
            continue
        try:
            yield name, escape(b" ".join(read_at(folder, name, LIMIT).split()))
        except OSError:
            continue  # not this kind of disk, or not this kernel


def _slaves(folder: int) -> list[str]:
    try:
        with OpenFd(os.open("slaves", READ_FLAGS | os.O_DIRECTORY, dir_fd=folder)) as slaves:
            return sorted(map(escape_name, os.listdir(slaves)))
    except OSError:
        return []
