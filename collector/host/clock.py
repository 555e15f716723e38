"""
The clock that runs and the clock that is set.

``CLOCK_BOOTTIME`` counts the seconds of a boot, suspend included, and nobody can set it. The wall clock makes labels:
it is set by hand, by NTP, and by a dead battery.
"""

from __future__ import annotations

import functools
import os
import time
from typing import NamedTuple

import msgspec

from collector.host.files import Host

BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Moment(NamedTuple):
    """
    A moment by the clock that runs: seconds since the boot with that id.

    Each time namespace has a clock of its own, and so is a boot of its own here. Source: time_namespaces(7).
    """

    boot_id: str
    boot_s: float


class ClockRecord(msgspec.Struct, frozen=True, kw_only=True):
    """
    What a clock of our own showed at a moment. It runs with ``CLOCK_BOOTTIME``, boot after boot.

    Time between two boots does not count: only the wall clock could tell how long it was.
    """

    boot_id: str
    boot_s: float
    clock_s: float

    def at(self, now: Moment) -> float:
        """Return what the clock shows *now*; it never goes back."""
        return self.clock_s + (max(0.0, now.boot_s - self.boot_s) if now.boot_id == self.boot_id else 0.0)


def boot_id(host: Host | None = None) -> str:
    return (host or Host()).read(BOOT_ID, limit=64).decode().strip()


@functools.cache
def _this_boot() -> str:
    try:
        return f"{boot_id()} {os.stat('/proc/self/ns/time').st_ino}"
    except FileNotFoundError:  # before Linux 5.6
        return boot_id()


def boot_s() -> float:
    """Return the seconds since boot, suspended time included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def moment() -> Moment:
    """Return the present moment."""
    return Moment(_this_boot(), boot_s())


def _offset_s() -> float:
    """Return by how much the wall clock is ahead of the other: of three readings, the one least interrupted."""
    readings = []
    for _ in range(3):
        before_s = boot_s()
        wall_s = time.time()
        readings.append((boot_s() - before_s, wall_s - before_s))
    return min(readings)[1]


_FIRST_OFFSET_S = _offset_s()


def set_back_s() -> float:
    """Return by how many seconds the wall clock has been set back since the program started; below 0 if set ahead."""
    return _FIRST_OFFSET_S - _offset_s()
